"""The app's end of one worker process: spawn it, send, receive, tell whether it still lives, end it.

One handle is one process; a dead worker is replaced by a new handle. Knows nothing of batches or tickets. The pipe is an
inherited socket pair, so there is no name in the file system and no other process can connect to it.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from steadyvoice.protocol import MemoryPlan
from steadyvoice.protocol.messages import FromWorker, ToWorker, WorkerArguments, message_from_worker, to_frame
from steadyvoice.protocol.wire import decode, encode

log = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent
FRAME_BYTES = 1 << 30  # of one answer: the longest speech is some megabytes, and a length is believed before it is read
EXIT_WAIT_S = 2.0  # a worker that was asked to go may take so long
PIPE_TIMEOUT_S = 5.0  # for a part of a frame to pass; a worker that is alive and idle reads at once

# What has to be set before torch is imported, by whatever module. A value of the user's own wins.
WORKER_ENVIRONMENT = {
    # Threads of GNU OpenMP wait for one another by spinning for milliseconds: beside other work on the same cores that made a
    # clip take ten times as long.
    "GOMP_SPINCOUNT": "30000",
    # oneDNN keeps what it compiled for each shape, with scratch memory, up to 1,024 times, and torch keeps a third of a megabyte
    # of every product in bf16 as often once more. Speech comes in every length, so that a worker grew with each batch; what one
    # forward pass repeats in all its layers is these few.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8",
    "LRU_CACHE_CAPACITY": "8",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
}


@dataclass(frozen=True)
class WorkerSpec:
    """How to start a worker."""

    engine: str  # a name that steadyvoice.worker.registry knows, or module:Class
    options: dict[str, Any] = field(default_factory=dict)  # handed to the engine's constructor
    python: str = sys.executable
    heartbeat_timeout_s: float = 60.0  # silence for longer than this is a hung worker
    memory: MemoryPlan = field(default_factory=MemoryPlan)

    def command(self, fd: int) -> list[str]:
        arguments = WorkerArguments(fd, os.getpid(), self.engine, self.options, self.memory)
        return [self.python, "-m", "steadyvoice.worker", arguments.to_json()]


class Worker(Protocol):
    """What the engine asks of a worker."""

    connection: Connection

    @property
    def pid(self) -> int: ...

    @property
    def heartbeat_timeout_s(self) -> float: ...

    @property
    def hung(self) -> bool: ...

    def send(self, message: ToWorker) -> None: ...

    def receive(self) -> FromWorker | None: ...

    def stop(self) -> None: ...

    def kill(self) -> int: ...


class WorkerGone(Exception):
    """The other end of the pipe is closed, or does not take or finish a frame."""


class WorkerProcess:
    """A running worker process. Used by one thread, which must outlive the worker: the kernel kills a
    child whose spawning *thread* ends (PR_SET_PDEATHSIG), and that is how no orphan survives us."""

    def __init__(self, spec: WorkerSpec) -> None:
        ours, theirs = socket.socketpair()
        # A stopped worker neither reads nor finishes a frame: the engine's thread must not wait with it for ever.
        limit = struct.pack("ll", *divmod(int(min(PIPE_TIMEOUT_S, spec.heartbeat_timeout_s) * 1e6), 1_000_000))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, limit)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
            environment = WORKER_ENVIRONMENT | os.environ | {"PYTHONPATH": path}
            try:
                self._process = subprocess.Popen(
                    spec.command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    cwd=PROJECT_ROOT,  # `python -m` imports from there first, wherever the app was started
                    env=environment,
                    # Ctrl-C reaches the whole group; the worker must outlive the draining of its app.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self.connection = Connection(ours.detach())
        self._spec = spec
        self.last_heard = time.monotonic()
        log.info("worker %d started for engine %s", self.pid, spec.engine)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def heartbeat_timeout_s(self) -> float:
        return self._spec.heartbeat_timeout_s

    @property
    def hung(self) -> bool:
        """It has sent nothing, not even a heartbeat, for too long."""
        return time.monotonic() - self.last_heard > self.heartbeat_timeout_s

    def send(self, message: ToWorker) -> None:
        """Raises WorkerGone when the worker has died, ProtocolError when the message cannot be encoded; nothing was sent then."""
        try:
            self.connection.send_bytes(encode(to_frame(message)))
        except OSError as error:
            raise WorkerGone(str(error)) from error

    def receive(self) -> FromWorker | None:
        """The next message if one has arrived, else None.

        Raises:
            WorkerGone: the worker has died and everything it said has been read.
            ProtocolError: it has sent something that is not a valid message.
        """
        try:
            if not self.connection.poll():
                return None
            frame = self.connection.recv_bytes(FRAME_BYTES)
        except (EOFError, OSError) as error:
            raise WorkerGone(str(error)) from error
        self.last_heard = time.monotonic()
        return message_from_worker(decode(frame))

    def stop(self) -> None:
        """End the process and reap it: politely by closing the pipe, then not."""
        self.connection.close()
        try:
            self._process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> int:
        """SIGKILL and reap; returns the exit status, negative for a signal."""
        self.connection.close()
        self._process.kill()
        status = self._process.wait()
        log.info("worker %d ended with status %d", self.pid, status)
        return status
