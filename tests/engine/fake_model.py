"""A model that does what each payload's field `do` says. It runs in a real worker process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path

from steadyvoice.protocol import ItemError, Items, ModelInfo, Outcome, Payload

MB_PER_S = 4_000_000  # bytes that `HungryModel` holds for each second of audio in a batch


class FakeModel:
    def __init__(self, diary: str, failing_loads: int = 0, max_batch_items: int = 4, ballast: int = 0) -> None:
        self._diary = Path(diary)
        self._note("load")
        if self._diary.read_text().count("load") <= failing_loads:
            raise FileNotFoundError("/secret/folder/weights.bin is missing")
        self._ballast = bytearray(ballast)
        self.info = ModelInfo("fake", "1", max_batch_items)

    def run(self, items: Items) -> Iterator[Outcome]:
        for item in items:
            self._note(f"item {item.fields.get('name')}")
            yield from self._do(item, str(item.fields.get("do", "echo")))

    def _do(self, item: Payload, do: str) -> Iterator[Outcome]:
        once = item.fields.get("once")
        if once and self._diary.read_text().count(f"item {item.fields['name']}\n") > 1:
            do = "echo"
        if do == "wait":
            with Client(str(item.fields["gate"])) as gate:  # the test accepts, and so knows that we are here
                gate.send(os.getpid())
                gate.recv()
        elif do == "die":
            os._exit(9)
        elif do == "hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif do == "raise":
            raise RuntimeError("a secret of the model")
        elif do == "run out of memory":
            raise MemoryError("a secret of the allocator")
        elif do == "break the device":
            raise RuntimeError("CUDA error: device-side assert triggered")
        elif do == "grow":
            self._ballast += bytes(int(item.fields["bytes"]))
        elif do in ("invalid", "oom", "error"):
            yield ItemError(do, f"this item is {do}")
        if do not in ("invalid", "oom", "error", "answer nothing"):
            yield Payload({**item.fields, "pid": os.getpid()}, item.arrays)
        if do == "answer twice":
            yield item

    def _note(self, line: str) -> None:
        with self._diary.open("a") as diary:
            diary.write(f"{line}\n")


class FrugalModel(FakeModel):
    """Can do with less memory when it has to."""

    def run_low_memory(self, items: Items) -> Iterator[Outcome]:
        for item in items:
            yield Payload({**item.fields, "frugally": True})


class HungryModel(FakeModel):
    """Holds memory in proportion to what it is given, all items at once, and can be measured."""

    def example(self, seconds: float) -> Payload:
        return Payload({"name": "example", "seconds": seconds})

    def run(self, items: Items) -> Iterator[Outcome]:
        longest = max(float(item.fields["seconds"]) for item in items)
        activations = bytearray(b"1") * int(len(items) * longest * MB_PER_S)
        del activations
        yield from super().run(items)
