"""What the app process and the worker process send to each other.

`wire` is the frames, `messages` their kinds, `recognition` and `synthesis` what the items carry, `model` and `cost` what a worker
reports. Imports the standard library and numpy only and runs on Python 3.10, because a worker may run under another interpreter.
Knows nothing of scheduling, HTTP or models.
"""

from steadyvoice.protocol.model_info import ItemError, Items, MemoryPlan, ModelInfo, Outcome
from steadyvoice.protocol.recognition import NO_SCORES, FloatArray, Recognition, RecognizeItem, Scores, TokenScore, Word
from steadyvoice.protocol.synthesis import PcmArray, Speech, SynthesizeItem
from steadyvoice.protocol.wire import Payload, ProtocolError

__all__ = [
    "NO_SCORES",
    "FloatArray",
    "ItemError",
    "Items",
    "MemoryPlan",
    "ModelInfo",
    "Outcome",
    "Payload",
    "PcmArray",
    "ProtocolError",
    "Recognition",
    "RecognizeItem",
    "Scores",
    "Speech",
    "SynthesizeItem",
    "TokenScore",
    "Word",
]
