"""Multipart forms -> pydantic models, with the same errors as a JSON body has."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData

from steadyvoice.api.errors import reason_of
from steadyvoice.errors import InvalidInput

M = TypeVar("M", bound=BaseModel)
NESTED = re.compile(r"([a-z_]+)\[([a-z_]+)\]")  # a field of an object, as OpenAI's SDKs write it


def fields_of(
    form: FormData, files: Collection[str], lists: Collection[str] = (), nested: Collection[str] = ()
) -> dict[str, Any]:
    """The text fields as a model takes them. Empty ones are left out: that is how a browser sends what was not filled in.

    Args:
        form: the whole form.
        files: fields that carry a file.
        lists: fields that may be given several times; their names end in [], and are understood without it too.
        nested: fields that are objects.

    Raises:
        InvalidInput: a field is given twice, or carries a file where text belongs.
    """
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in files:
            continue
        if not isinstance(value, str):
            raise InvalidInput(f"the field {name[:64]!r} takes text, and the form has a file in it", param=name[:64])
        if not (text := value.strip()):
            continue
        match = NESTED.fullmatch(name)
        if match and match[1] in nested:
            part = values.setdefault(match[1], {})
            if not isinstance(part, dict):
                raise InvalidInput(f"the field {match[1]!r} is given twice", param=match[1])
            part[match[2]] = text
        elif (listed := name if name in lists else f"{name}[]") in lists:
            values.setdefault(listed, []).append(text)
        elif name in values:
            raise InvalidInput(f"the field {name[:64]!r} is given twice", param=name[:64])
        else:
            values[name] = text
    return values


def checked(model: type[M], values: dict[str, Any]) -> M:
    """Raises RequestValidationError, as FastAPI does for a body."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([_at_its_field(one) for one in found]) from None


def _at_its_field(error: Any) -> dict[str, Any]:
    """The error under the name of the form's field. What lies deeper, below the number or kind of a part, is in the message."""
    field, *deeper = error["loc"]
    within = "".join(f"{part}: " for part in deeper[1:])
    told = {"msg": within + reason_of(error), "type": "value_error"} if within else {}
    return {**error, "loc": ("body", str(field).removesuffix("[]")), **told}
