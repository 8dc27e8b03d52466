"""The worker's loop: load when told to, run one batch at a time, say what each step cost, die with the parent.

Started by `steadyvoice.engine.worker_process` with one JSON argument. Three threads: this one owns the model and is the only
one that calls it; one reads the pipe, so that a closed pipe ends the process even in the middle of a batch; one says that we
live.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path

from steadyvoice.memory import sample
from steadyvoice.protocol import ItemError
from steadyvoice.protocol.messages import (
    EXIT_OUT_OF_MEMORY,
    HEARTBEAT_S,
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
    message_to_worker,
    to_frame,
)
from steadyvoice.protocol.model_info import Failure
from steadyvoice.protocol.wire import decode, encode
from steadyvoice.worker.device import Device
from steadyvoice.worker.device_sharing import SharedDevice
from steadyvoice.worker.error_kinds import failure_of
from steadyvoice.worker.memory_profile import budget_of
from steadyvoice.worker.registry import Model, load_model

log = logging.getLogger("steadyvoice.worker")

# All but the last name of a path; one in quotes may have spaces.
FOLDER = re.compile(r"(?<=['\"])/(?:[^'\"\n]*/)?|(?:/[^/\s'\"]+)*/(?=[^/\s])")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
EXIT_STICKY = 75
LEAVE_WAIT_S = 10.0  # for an idle worker of another app to leave


class Pipe:
    """Sending from two threads, one frame at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: FromWorker) -> None:
        frame = encode(to_frame(message))
        with self._lock:
            self._connection.send_bytes(frame)


def main() -> None:
    arguments = WorkerArguments.from_json(sys.argv[1])
    die_with_parent(arguments.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s worker[%(process)d] %(message)s", stream=sys.stderr)
    connection = Connection(arguments.fd)
    pipe = Pipe(connection)
    inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="reader", daemon=True).start()
    plan = arguments.memory
    shared = SharedDevice(Path(plan.folder) if plan.folder else None)
    threading.Thread(target=_beat, args=(pipe, shared), name="heartbeat", daemon=True).start()
    pipe.send(Hello(os.getpid()))
    device = Device(plan.trim, plan.reserve)
    model: Model | None = None
    while True:
        message = inbox.get()
        if isinstance(message, Load) and model is None:
            model = _load(pipe, arguments, device, shared)
        elif isinstance(message, Batch) and model is not None:
            run_batch(pipe, model, device, message)
        else:
            raise SystemExit(f"unexpected message {message.kind!r}")


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it died before we could ask


def run_batch(pipe: Pipe, model: Model, device: Device, batch: Batch) -> None:
    """Run the items and answer each as soon as the model yields its outcome."""
    answered, failure = 0, None
    began = last = time.monotonic()
    device.start_measuring()
    run = getattr(model, "run_low_memory", model.run) if batch.last_try else model.run
    try:
        for outcome in islice(run(batch.items), len(batch.items)):
            now = time.monotonic()
            if isinstance(outcome, ItemError):
                pipe.send(ItemFailed(batch.id, answered, outcome))
            else:
                pipe.send(Result(batch.id, answered, now - last, outcome))
            answered, last = answered + 1, now
        if answered != len(batch.items):
            raise RuntimeError(f"the model answered {answered} of {len(batch.items)} items")
    except Exception as error:
        # Which item caused it is not known here. The log has the traceback, and the app tries again in parts.
        failure = failure_of(error)
        log.exception("batch %d failed at item %d of %d (%s)", batch.id, answered, len(batch.items), failure.value)
    if failure is Failure.DEATH:
        log.critical("the device is lost to this process, which ends")
        os._exit(EXIT_STICKY)
    if failure is Failure.OUT_OF_MEMORY:
        device.trim()  # only now: until here the exception held on to every frame, and with them to the tensors
    used = device.used()
    device.after_batch()
    seconds, memory = time.monotonic() - began, sample("batch", "worker")
    pipe.send(Done(batch.id, seconds, memory, used) if failure is None else Aborted(batch.id, seconds, memory, failure, used))


def _load(pipe: Pipe, arguments: WorkerArguments, device: Device, shared: SharedDevice) -> Model:
    engine, options = arguments.engine, arguments.options

    def load() -> tuple[Model, Loaded]:
        model = load_model(engine, options)
        device.at_rest()
        at_rest = sample("load", "worker")
        budget = budget_of(model, device, shared, arguments.memory, {"engine": engine, "options": options})
        return model, Loaded(model.info, at_rest, budget)

    try:
        with shared.loading():
            try:
                model, loaded = load()
            except Exception as error:
                if failure_of(error) is not Failure.OUT_OF_MEMORY or not shared.ask_others_to_leave(LEAVE_WAIT_S):
                    raise
                asked = True
            else:
                asked = False
            if asked:  # only now the exception has let go of what was loaded
                log.warning("another worker has left, which was asked to: loading again")
                device.trim()
                model, loaded = load()
    except Exception as error:
        log.exception("loading %s failed", engine)
        # Callers read it: file names help them, and folders must not be disclosed.
        pipe.send(LoadFailed(f"{type(error).__name__}: {FOLDER.sub('', str(error))}"))
        raise SystemExit(1) from error
    pipe.send(loaded)
    return model


def _read(connection: Connection, inbox: queue.SimpleQueue[ToWorker]) -> None:
    with _exit_on_failure():  # at the end of the file or on a fault: the answers of a running batch would not arrive
        while True:
            inbox.put(message_to_worker(decode(connection.recv_bytes())))


def _beat(pipe: Pipe, shared: SharedDevice) -> None:
    with _exit_on_failure():
        while True:
            time.sleep(HEARTBEAT_S)
            pipe.send(AskedToLeave() if shared.is_asked_to_leave() else Heartbeat())


@contextmanager
def _exit_on_failure() -> Iterator[None]:
    """End the process when it can no longer receive, or no longer send heartbeats."""
    try:
        yield
    except (EOFError, OSError):  # the app closed the pipe
        os._exit(0)
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)
    except BaseException:
        log.critical("the worker's end of the pipe failed", exc_info=True)
        os._exit(1)


if __name__ == "__main__":
    main()
