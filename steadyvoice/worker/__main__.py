"""The worker's loop: load when told to, run one batch at a time, say what each step cost, die with the parent.

Started by `steadyvoice.engine.worker_handle` with one JSON argument. Three threads: this one owns the model and is the only
one that calls it; one reads the pipe, so that a closed pipe ends the process even in the middle of a batch; one says that we
live.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import queue
import re
import signal
import sys
import threading
import time
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

from steadyvoice.memory import sample
from steadyvoice.protocol import HEARTBEAT_S, ItemError, Message, Payload, decode, encode
from steadyvoice.worker.models import Model, load_model

log = logging.getLogger("steadyvoice.worker")

FOLDER = re.compile(r"(?:/[^/\s'\"]+)*/(?=[^/\s])")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Pipe:
    """Sending from two threads, one frame at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: str, items: tuple[Payload, ...] = (), **fields: Any) -> None:
        frame = encode(Message(kind, fields, items))
        with self._lock:
            self._connection.send_bytes(frame)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    die_with_parent(arguments["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker[%(process)d] %(message)s", stream=sys.stderr)
    connection = Connection(arguments["fd"])
    pipe = Pipe(connection)
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="reader", daemon=True).start()
    threading.Thread(target=_beat, args=(pipe,), name="heartbeat", daemon=True).start()
    pipe.send("hello", pid=os.getpid())
    model: Model | None = None
    while True:
        message = inbox.get()
        if message.kind == "load" and model is None:
            model = _load(pipe, arguments["engine"], arguments["options"])
        elif message.kind == "batch" and model is not None:
            run_batch(pipe, model, message)
        else:
            raise SystemExit(f"unexpected message {message.kind!r}")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before we could ask


def run_batch(pipe: Pipe, model: Model, message: Message) -> None:
    """Run the items and answer each as soon as the model yields its outcome."""
    batch, answered = message.fields["id"], 0
    began = last = time.monotonic()
    try:
        for outcome in islice(model.run(message.items), len(message.items)):
            now = time.monotonic()
            if isinstance(outcome, ItemError):
                pipe.send("failed", batch=batch, index=answered, error={"kind": outcome.kind, "message": outcome.message})
            else:
                pipe.send("result", (outcome,), batch=batch, index=answered, seconds=now - last)
            answered, last = answered + 1, now
        if answered != len(message.items):
            raise RuntimeError(f"the model answered {answered} of {len(message.items)} items")
    except Exception:
        # Whose fault it was is not known here; the log has the traceback, the callers a plain sentence.
        log.exception("batch %d failed at item %d of %d", batch, answered, len(message.items))
        for index in range(answered, len(message.items)):
            pipe.send("failed", batch=batch, index=index, error={"kind": "error", "message": "the engine failed on this item"})
    pipe.send("done", batch=batch, seconds=time.monotonic() - began, memory=sample("batch", "worker").as_dict())


def _load(pipe: Pipe, engine: str, options: dict[str, Any]) -> Model:
    try:
        model = load_model(engine, options)
    except Exception as error:
        log.exception("loading %s failed", engine)
        # Callers will read it: file names help them, folders are nobody's business.
        pipe.send("load_failed", reason=f"{type(error).__name__}: {FOLDER.sub('', str(error))}")
        raise SystemExit(1) from error
    info = {"name": model.info.name, "revision": model.info.revision, "max_batch_items": model.info.max_batch_items}
    pipe.send("loaded", model=info, memory=sample("load", "worker").as_dict())
    return model


def _read(connection: Connection, inbox: queue.SimpleQueue[Message]) -> None:
    try:
        while True:
            inbox.put(decode(connection.recv_bytes()))
    except (EOFError, OSError):
        os._exit(0)  # the app closed the pipe: not even a batch in hand is of use to anybody


def _beat(pipe: Pipe) -> None:
    wakeless = threading.Event()
    while not wakeless.wait(HEARTBEAT_S):
        try:
            pipe.send("heartbeat")
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main()
