from __future__ import annotations

import math
from typing import Any

import pytest

from steadyvoice.memory import MemorySample
from steadyvoice.protocol import ItemError, MemoryPlan, ModelInfo, Payload, ProtocolError
from steadyvoice.protocol.cost import CostModel
from steadyvoice.protocol.messages import (
    FROM_WORKER,
    TO_WORKER,
    Aborted,
    AskedToLeave,
    Batch,
    Done,
    FromWorker,
    Heartbeat,
    Hello,
    ItemFailed,
    Load,
    Loaded,
    LoadFailed,
    Result,
    ToWorker,
    WorkerArguments,
    message_from_worker,
    message_to_worker,
    to_frame,
)
from steadyvoice.protocol.model_info import BatchBudget, Failure
from steadyvoice.protocol.wire import Frame, decode, encode

MEMORY = MemorySample("batch", "worker", 1.5, 10**9, free=7)
BUDGET = BatchBudget(1e9, CostModel(1.0, 2.0, 0.5), math.inf)
TO: list[ToWorker] = [Load(), Batch(3, True, (Payload({"text": "a"}), Payload({"text": "b"})))]
FROM: list[FromWorker] = [
    Hello(17),
    Loaded(ModelInfo("model", "1", 4), MEMORY, BUDGET),
    Loaded(ModelInfo("model", "1", 4), MEMORY),
    LoadFailed("OSError: weights.bin is missing"),
    Result(3, 0, 0.25, Payload({"text": "a"})),
    ItemFailed(3, 1, ItemError("invalid", "no such voice")),
    Done(3, 0.5, MEMORY, 12),
    Aborted(3, 0.5, MEMORY, Failure.OUT_OF_MEMORY),
    Heartbeat(),
    AskedToLeave(),
]


@pytest.mark.parametrize("message", TO, ids=lambda message: message.kind)
def test_what_the_app_sends_is_what_the_worker_reads(message: ToWorker) -> None:
    assert message_to_worker(decode(encode(to_frame(message)))) == message


@pytest.mark.parametrize("message", FROM, ids=lambda message: message.kind)
def test_what_the_worker_sends_is_what_the_app_reads(message: FromWorker) -> None:
    assert message_from_worker(decode(encode(to_frame(message)))) == message


def test_every_kind_of_message_is_tested_here() -> None:
    assert {message.kind for message in TO} == set(TO_WORKER)
    assert {message.kind for message in FROM} == set(FROM_WORKER)


@pytest.mark.parametrize("message", [*TO, Hello(17)], ids=lambda message: message.kind)
def test_a_message_in_the_wrong_direction_is_unknown(message: Any) -> None:
    with pytest.raises(ProtocolError, match="is unknown"):
        (message_to_worker if isinstance(message, Hello) else message_from_worker)(to_frame(message))


@pytest.mark.parametrize("message", FROM, ids=lambda message: message.kind)
def test_a_message_with_a_field_missing_or_too_many_is_refused(message: FromWorker) -> None:
    frame = to_frame(message)
    optional = {"used", "budget"}
    for name in frame.fields.keys() - optional:
        with pytest.raises(ProtocolError, match=name):
            message_from_worker(
                Frame(frame.kind, {key: value for key, value in frame.fields.items() if key != name}, frame.items)
            )
    with pytest.raises(ProtocolError, match="unknown"):
        message_from_worker(Frame(frame.kind, {**frame.fields, "surprise": 1}, frame.items))
    with pytest.raises(ProtocolError, match="items"):
        message_from_worker(Frame(frame.kind, frame.fields, (*frame.items, Payload())))


@pytest.mark.parametrize(
    ("message", "change", "said"),
    [
        (FROM[4], {"index": 0.0}, "index: 0.0 is not int"),
        (FROM[4], {"index": True}, "index: True is not int"),
        (FROM[4], {"index": [0]}, r"index: \[0\] is not int"),
        (FROM[4], {"batch": "3"}, "batch: '3' is not int"),
        (FROM[4], {"seconds": "soon"}, "seconds: 'soon' is not a number"),
        (FROM[4], {"seconds": math.nan}, "seconds: nan is not a number"),
        (FROM[4], {"seconds": 10**400}, "seconds: .* too large"),
        (
            FROM[5],
            {"error": {"kind": "boredom", "message": ""}},
            "kind: 'boredom' is not one of 'invalid', 'oom', 'error'",
        ),
        (FROM[5], {"error": {"kind": ["invalid"], "message": ""}}, "is not one of"),
        (FROM[5], {"error": "invalid"}, "error: 'invalid' is not an object"),
        (FROM[6], {"seconds": -1.0}, "-1.0 seconds"),
        (FROM[6], {"seconds": math.inf}, "inf seconds"),
        (FROM[6], {"used": 1.5}, "used: 1.5 is not int"),
        (FROM[6], {"memory": {"rss": 1}}, "memory: "),
        (FROM[7], {"failure": "death"}, "its own death"),
        (FROM[7], {"failure": "boredom"}, "'boredom' is not a valid Failure"),
        (FROM[7], {"failure": None}, "None is not a valid Failure"),
        (FROM[7], {"failure": ["oom"]}, "is not a valid Failure"),
        (FROM[1], {"model": {"name": "model", "revision": "1", "max_batch_items": 0}}, "batches of 0 items"),
        (FROM[1], {"budget": {"bytes": math.nan, "cost": {}, "recycle_bytes": 1}}, "bytes: nan is not a number"),
        (FROM[1], {"budget": {"bytes": 1, "cost": {"linear": -1.0}, "recycle_bytes": 1}}, "below zero"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(message: FromWorker, change: dict[str, Any], said: str) -> None:
    frame = to_frame(message)

    with pytest.raises(ProtocolError, match=said):
        message_from_worker(Frame(frame.kind, {**frame.fields, **change}, frame.items))


def test_the_arguments_of_a_worker_arrive_as_they_were() -> None:
    arguments = WorkerArguments(5, 100, "espeak", {"directory": "/a b", "beams": 1}, MemoryPlan(30.0, limit=10, folder="/c"))

    assert WorkerArguments.from_json(arguments.to_json()) == arguments
