"""The common way to serve a voice: one model in the process of the web server, a lock around it, the whole text, then the answer.

What bench/synthesis.py compares with. `python bench/one_lock_server.py {indextts2|espeak} PORT [CHECKOUT]`.
"""

from __future__ import annotations

import io
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from fastapi.responses import Response  # noqa: E402
from pydantic import BaseModel  # noqa: E402

Say = Callable[[str, str], tuple[int, "np.ndarray[tuple[int], np.dtype[np.int16]]"]]  # text, voice -> rate, samples


class Body(BaseModel):
    text: str
    voice: str


def indextts2(checkout: str) -> Say:
    sys.path.insert(0, checkout)
    from indextts.infer_v2 import IndexTTS2  # type: ignore[import-not-found]

    checkpoints = Path(checkout) / "checkpoints"
    engine = IndexTTS2(str(checkpoints / "config.yaml"), str(checkpoints), use_fp16=True)

    def say(text: str, voice: str) -> tuple[int, np.ndarray]:  # type: ignore[type-arg]
        rate, samples = engine.infer(voice, text, None)
        return rate, samples.reshape(-1)

    return say


def espeak() -> Say:
    from steadyvoice.protocol import Speech, SynthesizeItem
    from steadyvoice.worker.synthesizers.espeak import EspeakSynthesizer

    engine = EspeakSynthesizer()

    def say(text: str, voice: str) -> tuple[int, np.ndarray]:  # type: ignore[type-arg]
        (answer,) = engine.run([SynthesizeItem(text, "en", voice).to_payload()])
        speech = Speech.from_payload(answer)  # type: ignore[arg-type]
        return speech.sample_rate, speech.samples

    return say


def build(say: Say) -> FastAPI:
    app, lock = FastAPI(), threading.Lock()

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {}

    @app.post("/synthesize")
    def synthesize(body: Body) -> Response:  # in a thread of FastAPI's pool
        with lock:
            rate, samples = say(body.text, body.voice)
        out = io.BytesIO()
        with wave.open(out, "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        return Response(out.getvalue(), media_type="audio/wav")

    return app


if __name__ == "__main__":
    _, engine, port, *checkout = sys.argv
    uvicorn.run(build(indextts2(*checkout) if engine == "indextts2" else espeak()), port=int(port), log_level="error")
