"""The API's description: error responses, form bodies, tags and the schema at /openapi.json. Knows no route by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

AUDIO_TYPES = ("audio/*", "video/*", "application/ogg", "application/octet-stream")
REFERENCE = "#/components/schemas/"
TAGS = {
    "transcription": "Speech to text.",
    "speech": "Text to speech.",
    "voices": "Voices: list, add, play and remove.",
    "models": "The running engine, by its own name and by OpenAI's names.",
    "operations": "Health, metrics and memory.",
}


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="Names the field, the limit and the value.")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field that is wrong, where it is one.")
    code: str | None = Field(description="For programs; stays the same when the message is worded anew.")


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail

    model_config = {
        "json_schema_extra": {
            "example": {
                "error": {
                    "message": "speed is 9; allowed: 0.25 to 4",
                    "type": "invalid_request_error",
                    "param": "speed",
                    "code": "invalid_value",
                }
            }
        }
    }


RETRY_AFTER: dict[str, Any] = {
    "Retry-After": {"description": "Whole seconds until another try is worth while.", "schema": {"type": "integer", "minimum": 0}}
}
REASONS = {
    400: "Not an allowed value, or the body cannot be read.",
    403: "The request comes from a web page that may not call this server.",
    404: "There is nothing of that name.",
    408: "The body stopped coming.",
    409: "It is there already, is still being made, or cannot be changed.",
    413: "Over a limit of bytes, seconds or characters.",
    415: "Not audio.",
    421: "The host name is not one of this server's.",
    422: "Not an allowed value (on OpenAI's routes: 400); or what ended the engine twice, or a key that came with another body.",
    429: "As many requests as may be are in progress.",
    500: "The engine failed on this input, or the server has a bug.",
    503: "The engine is not available, memory ran out, or the server is draining.",
    504: "It took longer than the server's time limit.",
    507: "The disk is full.",
}
MAY_BE_RETRIED = (409, 429, 503)
EVERYWHERE = (403, 421, 500)  # by what every request passes
WITH_BODY = (408, 413)  # of requests that carry a body
WITH_UPLOAD = (*WITH_BODY, 415, 429, 503, 507)
AT_WORK = (429, 500, 503, 504)  # of requests that the engine works on


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of a route that answers these statuses, beside `EVERYWHERE`, with an error body."""
    return {
        status: {"model": ErrorBody, "description": REASONS[status]}
        | ({"headers": RETRY_AFTER} if status in MAY_BE_RETRIED else {})
        for status in sorted({*statuses, *EVERYWHERE})
    }


BINARY = {"type": "string", "format": "binary"}


def content(*media_types: str, description: str) -> dict[str, Any]:
    """A response of text or bytes in one of these media types."""
    kinds = {name: text() if name.startswith("text/") else {"schema": BINARY} for name in media_types}
    return {"description": description, "content": kinds}


def text(description: str = "") -> dict[str, Any]:
    """What a response has in a media type of text."""
    return {"schema": {"type": "string"} | ({"description": description} if description else {})}


def event_stream(*events: type[BaseModel]) -> dict[str, Any]:
    """Server-sent events with one of these as JSON in their data. Before OpenAPI 3.2 the schema is that of one event."""
    data = {"oneOf": [inlined(event.model_json_schema()) for event in events]}
    fields = {
        "event": {"type": "string"},
        "data": {"type": "string", "contentMediaType": "application/json", "contentSchema": data},
    }
    return {"schema": {"type": "object", "properties": fields, "required": ["data"]}}


def headers(**told: str) -> dict[str, Any]:
    """Headers of a response: name, with _ for -, and what it says."""
    return {name.replace("_", "-"): {"description": says, "schema": {"type": "string"}} for name, says in told.items()}


def multipart(
    form: type[BaseModel],
    files: Mapping[str, str],
    refined: Mapping[str, Mapping[str, Any]] | None = None,
    together: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads this form and these files itself.

    FastAPI would read a whole upload before the first line of the route runs; here a request is admitted first.

    Args:
        form: the text fields.
        files: name of each file's field -> what the file is.
        refined: field -> its schema, where that depends on the engine or a setting.
        together: schemas that fields meet with one another.
    """
    schema = inlined(form.model_json_schema(by_alias=True))
    properties = {name: BINARY | {"description": text} for name, text in files.items()} | _refined(schema, refined or {})
    schema |= {"properties": properties, "required": [*files, *schema.get("required", ())]}
    schema |= {"allOf": list(together)} if together else {}
    encoding = {name: {"contentType": ", ".join(AUDIO_TYPES)} for name in files}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema, "encoding": encoding}}}}


def inlined(schema: Any) -> Any:
    """A schema of pydantic's with its definitions in the places that refer to them."""
    definitions = schema.pop("$defs", {})

    def resolve(part: Any) -> Any:
        if isinstance(part, list):
            return [resolve(item) for item in part]
        if not isinstance(part, dict):
            return part
        if (reference := part.get("$ref")) is not None:
            rest = {key: value for key, value in part.items() if key != "$ref"}
            return resolve(definitions[reference.rsplit("/", 1)[1]]) | resolve(rest)
        return {key: resolve(value) for key, value in part.items()}

    return resolve(schema)


def refine(
    app: FastAPI,
    model: type[BaseModel],
    fields: Mapping[str, Mapping[str, Any]],
    together: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Let the schema of a body say what depends on the engine or a setting. `fields` and `together` as for `multipart`."""
    app.state.refined = {**getattr(app.state, "refined", {}), model.__name__: (fields, together)}


def _refined(schema: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Properties with those that `fields` describes anew, of which title, default and description stay."""
    properties = dict(schema["properties"])
    for name in properties.keys() & fields.keys():
        kept = {key: value for key, value in properties[name].items() if key in ("title", "default", "description")}
        properties[name] = {**kept, **fields[name]}
    return properties


def schema_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """What `app.openapi` is replaced by: FastAPI's schema, with our error body alone."""

    def build() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        used = [tag for route in app.routes for tag in getattr(route, "tags", [])]
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=[{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        )
        schema["servers"] = [{"url": "/"}]
        for operations in schema["paths"].values():
            for operation in operations.values():
                _drop_fastapis_error(operation["responses"])
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for model, (fields, together) in getattr(app.state, "refined", {}).items():
            schemas[model]["properties"] = _refined(schemas[model], fields)
            if together:
                schemas[model]["allOf"] = list(together)
        app.openapi_schema = schema
        return schema

    return build


def _drop_fastapis_error(responses: dict[str, Any]) -> None:
    """FastAPI adds a 422 with a body of its own, which no route here answers."""
    schema = responses.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if schema.get("$ref") == REFERENCE + "HTTPValidationError":
        del responses["422"]
