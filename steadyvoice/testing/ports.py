"""A port for a server that a test starts later, in another process."""

from __future__ import annotations

import os
import random
import socket

# Below the ports that Linux gives to outgoing connections (32768 on): none of those can take one before its server does.
# Each process of a test run in parallel has its own.
PROCESSES = 8
PORTS = range(15_000 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % PROCESSES, 32_000, PROCESSES)
_given: set[int] = set()


def free_port() -> int:
    """A port of 127.0.0.1 that is not in use, never the same twice: two servers that start later must not share one."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError(f"no port of {PORTS} is free")
