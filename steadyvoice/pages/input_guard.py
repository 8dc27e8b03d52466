"""What may come in through the inputs of a page, and what a client is told when its call fails. Knows Gradio, no engine.

Gradio copies every file that an input value names into its cache. A client may name any file in any input, and Gradio's own check
of the paths is skipped in an app that is mounted instead of launched. Therefore `GuardedBlocks` checks the values first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import gradio as gr
from gradio import utils
from pydantic import TypeAdapter, ValidationError

from steadyvoice.errors import InvalidInput, SteadyvoiceError
from steadyvoice.service.private_folder import DOWNLOAD_PREFIX

log = logging.getLogger(__name__)

T = TypeVar("T")
MAX_DEPTH = 16  # of lists in one input value
_upload_inputs: WeakSet[Any] = WeakSet()


def accept_upload(component: Any) -> Any:
    """Declare that this component takes an uploaded file as input. No other component does."""
    _upload_inputs.add(component)
    return component


class GuardedBlocks(gr.Blocks):  # type: ignore[misc]  # Gradio is not typed
    """Blocks whose endpoints take plain values, and uploaded files where an input is declared with `accept_upload`.

    Every route of Gradio's that runs an endpoint calls `process_api`: the queue, the routes beside it, validators and batches.
    """

    async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> dict[str, Any]:
        """As Gradio's.

        Raises:
            gr.Error: whatever went wrong, in a message that the client may read. Gradio tells no other error to clients.
        """
        try:
            refuse_files("event_data", getattr(options.get("event_data"), "_data", None))
            checked = checked_inputs(self.fns[block_fn] if isinstance(block_fn, int) else block_fn, inputs)
            answer: dict[str, Any] = await super().process_api(block_fn, checked, *args, **options)
        except SteadyvoiceError as error:
            raise gr.Error(error.message, print_exception=False) from None
        except gr.Error as error:  # of a component: the value is none that it allows
            error.print_exception = False
            raise
        except Exception as error:
            log.exception("a call of the page failed")
            raise gr.Error("internal error", print_exception=False) from error
        return answer

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> list[Any]:
        """As Gradio's. Raises InvalidInput where a component cannot read its value, and gr.Error where it refuses it."""
        try:
            values: list[Any] = await super().preprocess_data(block_fn, inputs, *args, **options)
        except gr.Error:
            raise
        except (ValueError, TypeError, AttributeError):
            raise InvalidInput("a value does not fit its input") from None
        return values


def checked_inputs(fn: Any, values: list[Any]) -> list[Any]:
    """The values of an endpoint's inputs, each without files or an uploaded file in canonical form.

    Raises:
        InvalidInput: an input is missing, or names what is not an uploaded file.
    """
    if len(values) != len(fn.inputs):
        names = ", ".join(map(_name, fn.inputs))
        raise InvalidInput(f"{len(values)} values were given for {len(fn.inputs)} inputs: {names}")
    return [_checked(component, value) for component, value in zip(fn.inputs, values, strict=True)]


def _checked(component: Any, value: Any) -> Any:
    name = _name(component)
    if component in _upload_inputs:
        return uploaded_file(name, value)
    refuse_objects(name, value)
    return value


def uploaded_file(name: str, value: Any) -> dict[str, Any] | None:
    """A client's file object as Gradio's, with its path alone: no URL is kept, since Gradio would fetch it.

    Raises:
        InvalidInput: it is not an uploaded file.
    """
    if value is None:
        return None
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str) or not is_upload(path):
        raise InvalidInput(f"{name} is not an uploaded file; paths and URLs are not opened", param=name)
    resolved = Path(path).resolve()
    return {"path": str(resolved), "orig_name": resolved.name, "meta": {"_type": "gradio.FileData"}}


def is_upload(path: str | Path) -> bool:
    """Whether this is a file that a client uploaded to this app, links followed."""
    folder = Path(utils.get_upload_folder()).resolve()
    try:
        resolved = Path(path).resolve()
        return resolved.is_relative_to(folder) and not _is_download(resolved.relative_to(folder)) and resolved.is_file()
    except (OSError, ValueError):  # names that no file can have
        return False


def _is_download(relative: Path) -> bool:
    return relative.parts[:1] != () and relative.parts[0].startswith(DOWNLOAD_PREFIX)


def refuse_objects(name: str, value: Any, depth: int = 0) -> None:
    """Raise InvalidInput for a value with a JSON object in it. Files come as objects, and no input but theirs takes one."""
    if isinstance(value, Mapping):
        raise InvalidInput(f"{name} takes no JSON object and no file", param=name)
    if isinstance(value, list | tuple):
        if depth == MAX_DEPTH:
            raise InvalidInput(f"{name} has lists in more than {MAX_DEPTH} levels", param=name)
        for part in value:
            refuse_objects(name, part, depth + 1)


def refuse_files(name: str, value: Any, depth: int = 0) -> None:
    """Raise InvalidInput for a value with a file in it. Other objects may be in it."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{name} has more than {MAX_DEPTH} levels", param=name)
    if isinstance(value, Mapping):
        if "path" in value:
            raise InvalidInput(f"{name} takes no file", param=name)
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            refuse_files(name, part, depth + 1)


def _name(component: Any) -> str:
    """What a client calls the input: labels of the API's inputs begin with the parameter's name."""
    label = getattr(component, "label", None)
    return label.split(":")[0] if isinstance(label, str) else str(component.get_block_name())


# --- values of the right type


def typed(kind: type[T], **values: Any) -> T:
    """A dataclass from values of a client, whatever their types.

    Raises:
        InvalidInput: naming the parameter whose value has the wrong type.
    """
    try:
        return _adapter(kind).validate_python(values)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        param = str(first["loc"][0])
        raise InvalidInput(f"{param}: {first['msg']}", param=param) from None


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
