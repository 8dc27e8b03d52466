"""JSON values -> frozen dataclasses, every field checked against its declared type.

One place for the rules, so that a message is valid as a whole before anything is done with it. A number is never NaN. Ranges are
the dataclass's own: its `__post_init__` raises ValueError.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union

from steadyvoice.protocol.wire import ProtocolError

T = TypeVar("T")
Reader = Callable[[Any], Any]


def parse(cls: type[T], values: object, **given: Any) -> T:
    """An instance of the dataclass `cls` from a JSON object. `given` are fields that do not come from JSON, such as arrays.

    Raises:
        ProtocolError: a field is missing, unknown, or has a value that its type does not allow.
    """
    try:
        return _object(cls, values, given)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"{cls.__name__}: {error}") from error


def _object(cls: type[T], values: object, given: Mapping[str, Any]) -> T:
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r:.80} is not an object")
    readers = _readers(cls)  # type: ignore[arg-type]
    read = dict(given)
    for name, value in values.items():
        if name not in readers or name in given:
            raise ValueError(f"field {name!r:.80} is unknown")
        try:
            read[name] = readers[name](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error
    return cls(**read)  # a missing field is a TypeError


@functools.cache
def _readers(cls: type[Any]) -> dict[str, Reader]:
    hints = typing.get_type_hints(cls)
    return {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls)}


def _reader(hint: Any) -> Reader:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        read = _reader(inner)
        return lambda value: None if value is None else read(value)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin is tuple and arguments[1:] == (...,):
        return functools.partial(_tuple, _reader(arguments[0]))
    if origin is dict:
        return functools.partial(_exactly, dict)
    if hint is float:
        return _number
    if hint in (int, str, bool):
        return functools.partial(_exactly, hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: _object(hint, value, {})
    return _unreadable  # an array: always `given`


def _exactly(kind: type[Any], value: object) -> object:
    if type(value) is not kind:  # True is an int, and is not meant
        raise TypeError(f"{value!r:.80} is not {kind.__name__}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise TypeError(f"{value!r:.80} is not a number")
    return float(value)


def _one_of(choices: tuple[Any, ...], value: object) -> object:
    if value not in choices:
        raise ValueError(f"{value!r:.80} is not one of {', '.join(map(repr, choices))}")
    return value


def _tuple(read: Reader, value: object) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.80} is not a list")
    return tuple(map(read, value))


def _unreadable(value: object) -> object:
    raise TypeError("it does not come from JSON")
