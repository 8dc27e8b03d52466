"""The socket that an app listens at. Preflight opens the same for a moment, to know whether it can be had."""

from __future__ import annotations

import socket


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host`, an IPv4 or IPv6 address or name.

    Raises:
        OSError: the address cannot be had.
        UnicodeError: `host` is no name that could be looked up.
    """
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    # Connections inherit it. asyncio sets it only on sockets that say that they are TCP, which `create_server`'s do not: the
    # body of an answer then waits 40 ms until the caller's kernel has acknowledged the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
