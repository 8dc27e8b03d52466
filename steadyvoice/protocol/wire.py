"""Frames: how a message looks on the pipe between the app process and the worker process.

A frame is a JSON header and raw numpy arrays. Nothing that comes from the child is ever unpickled: a compromised worker can
send wrong data, but it cannot run code in the app.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<I")  # bytes of the JSON header
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "int16": np.dtype("<i2")}  # what may cross the pipe


class ProtocolError(Exception):
    """The other process sent something that is not a frame, or not a valid message."""


@dataclass(frozen=True)
class Payload:
    """What one item or one answer carries: plain JSON fields and at most a few arrays. The engine passes it on unread."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: tuple[NDArray[Any], ...] = ()

    @property
    def array(self) -> NDArray[Any]:
        """The only array. Raises ProtocolError where there is none, or another one."""
        if len(self.arrays) != 1:
            raise ProtocolError(f"a payload with {len(self.arrays)} arrays instead of one")
        return self.arrays[0]


@dataclass(frozen=True)
class Frame:
    """One frame. `items` carries the payloads of a batch, or the single payload of a result."""

    kind: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[Payload, ...] = ()


def encode(frame: Frame) -> bytes:
    """Frame -> bytes.

    Raises:
        ProtocolError: an array has a dtype that may not cross the pipe, or a field is not JSON.
    """
    arrays: list[NDArray[Any]] = []
    items = []
    for item in frame.items:
        shapes = []
        for array in item.arrays:
            if array.dtype.name not in DTYPES:
                raise ProtocolError(f"dtype {array.dtype.name} may not cross the pipe; allowed: {', '.join(DTYPES)}")
            shapes.append([array.dtype.name, list(array.shape)])
            arrays.append(np.ascontiguousarray(array, dtype=DTYPES[array.dtype.name]))
        items.append({"fields": item.fields, "arrays": shapes})
    try:
        header = json.dumps({"kind": frame.kind, "fields": frame.fields, "items": items}, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError too
        raise ProtocolError(f"a field is not JSON: {type(error).__name__}") from error
    return b"".join([LENGTH.pack(len(header)), header, *(array.data.cast("B") for array in arrays if array.size)])


def can_be_sent(payload: Payload) -> bool:
    """Whether `encode` takes it."""
    try:
        encode(Frame("batch", {}, (payload,)))
    except ProtocolError:
        return False
    return True


def decode(data: bytes) -> Frame:
    """Bytes -> frame. Arrays are read-only views into `data`.

    Raises:
        ProtocolError: the frame is malformed.
    """
    try:
        (size,) = LENGTH.unpack_from(data)
        header = json.loads(data[LENGTH.size : LENGTH.size + size])
        offset = LENGTH.size + size
        items = []
        for item in header["items"]:
            arrays = []
            for name, shape in item["arrays"]:
                if not all(isinstance(side, int) and side >= 0 for side in shape):
                    raise ValueError("a dimension of a shape is not a number")
                count = math.prod(shape)
                arrays.append(np.frombuffer(data, DTYPES[name], count, offset).reshape(shape))
                offset += count * DTYPES[name].itemsize
            items.append(Payload(item["fields"], tuple(arrays)))
        if not all(isinstance(part["fields"], dict) for part in (header, *header["items"])):
            raise TypeError("fields are not an object")
        return Frame(str(header["kind"]), header["fields"], tuple(items))
    except (struct.error, ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"malformed frame of {len(data)} bytes: {error}") from error
