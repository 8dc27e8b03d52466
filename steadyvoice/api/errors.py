"""Errors as HTTP answers: the one place that maps `steadyvoice.errors` to a status and a JSON body."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steadyvoice.errors import BodyTimeout, Cancelled, InvalidInput, SteadyvoiceError, StorageFull
from steadyvoice.service.disk_full import is_disk_full

MAX_PARAM = 64  # characters of a field's name that are told back
MAX_VALUE = 64  # and of its value
PLAIN_REASONS = {"extra_forbidden": "there is no such field", "bool_parsing": "allowed: true, false"}
# OpenAI's own routes. Its SDKs raise BadRequestError for 400, and callers catch that; other routes keep 422.
OPENAI_PATHS = ("/v1/audio/", "/v1/models")


def add_error_handlers(app: FastAPI) -> None:
    """Every exception that the app's routes mean to raise becomes an error body; `InternalErrors` takes the others."""
    app.add_exception_handler(SteadyvoiceError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_disconnect)


def add_page_error_handlers(page_app: FastAPI) -> None:
    """Unknown paths and wrong methods below the page answer with the same error body as everywhere else.

    Gradio's other errors stay as they are: its clients read their `detail`.
    """
    for status in (404, 405):
        page_app.add_exception_handler(status, _answer_http_exception)
    page_app.add_exception_handler(Exception, answer_bug)


def error_body(message: str, code: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: SteadyvoiceError) -> dict[str, Any]:
    return error_body(error.message, error.code, error.type, error.param)


def error_response(
    status: int,
    message: str,
    code: str,
    kind: str,
    param: str | None = None,
    retry_after_s: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    wait = {"Retry-After": str(math.ceil(retry_after_s))} if retry_after_s is not None else {}
    return JSONResponse(error_body(message, code, kind, param), status, {**wait, **(headers or {})})


def answer_of(error: SteadyvoiceError, path: str = "") -> JSONResponse:
    """`path`: of the request, where the status depends on it."""
    # After a body that was not read to its end no further request can follow on the connection.
    headers = {"Connection": "close"} if isinstance(error, BodyTimeout) else {}
    status = status_on(path, error.code, error.status)
    return error_response(status, error.message, error.code, error.type, error.param, error.retry_after_s, headers)


def status_on(path: str, code: str, status: int) -> int:
    """The status of an error on that path: an invalid value is 400 on OpenAI's routes and 422 on all others."""
    return 400 if code == InvalidInput.code and path.startswith(OPENAI_PATHS) else status


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, SteadyvoiceError)
    return answer_of(error, request.url.path)


async def _answer_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Numbers are places in the body, not names of fields.
    param = ".".join(part for part in first["loc"][1:] if isinstance(part, str))[:MAX_PARAM] or None
    given = first.get("input")
    is_told = param is not None and first["type"] != "extra_forbidden" and isinstance(given, str | int | float)
    value = f" is {str(given)[:MAX_VALUE]!r}" if is_told else ""
    message = f"{param or 'body'}{value}: {reason_of(first)}"
    status = status_on(request.url.path, InvalidInput.code, InvalidInput.status)
    return error_response(status, message, InvalidInput.code, InvalidInput.type, param)


def reason_of(error: Mapping[str, Any]) -> str:
    """What pydantic says, in words that help where its own do not."""
    return PLAIN_REASONS.get(error["type"]) or str(error["msg"])


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, SteadyvoiceError):  # raised while FastAPI read a body, which it takes for a malformed one
        return answer_of(error.__cause__, request.url.path)
    message, code = str(error.detail), f"http_{error.status_code}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        message, code = "there is no such route", "not_found"
    elif error.status_code == HTTPStatus.BAD_REQUEST:  # FastAPI and Starlette: a body that is no JSON and no form at all
        return answer_of(InvalidInput(f"the body cannot be read: {message}"), request.url.path)
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message, code = f"{request.method} is not allowed here", "method_not_allowed"
    return error_response(error.status_code, message, code, "invalid_request_error", headers=error.headers)


async def _answer_disconnect(_: Request, error: Exception) -> Response:
    """The caller hung up while its body was being read."""
    return error_response(Cancelled.status, "the caller went away", Cancelled.code, Cancelled.type)


async def answer_bug(_: Request, error: Exception) -> Response:
    """For an exception that no code expects: a full disk, wherever it is met, or a bug. Tracebacks are for the log alone."""
    if is_disk_full(error):
        return answer_of(StorageFull("no space left on the server's disk"))
    return error_response(500, "internal error", "internal_error", "server_error")
