"""Errors as HTTP answers: the one place that maps `steadyvoice.errors` to a status and a JSON body."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steadyvoice.errors import BodyTimeout, Cancelled, SteadyvoiceError

log = logging.getLogger(__name__)

MAX_PARAM = 64  # characters of a field's name that are told back


def add_error_handlers(app: FastAPI) -> None:
    """Every exception of the app's routes becomes an error body."""
    app.add_exception_handler(SteadyvoiceError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_disconnect)
    app.add_exception_handler(Exception, _answer_bug)


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


def answer_of(error: SteadyvoiceError) -> JSONResponse:
    # After a body that was not read to its end no further request can follow on the connection.
    headers = {"Connection": "close"} if isinstance(error, BodyTimeout) else {}
    return error_response(error.status, error.message, error.code, error.type, error.param, error.retry_after_s, headers)


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SteadyvoiceError)
    return answer_of(error)


async def _answer_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Numbers are places in the body, not names of fields.
    param = ".".join(part for part in first["loc"][1:] if isinstance(part, str))[:MAX_PARAM] or None
    return error_response(422, f"{param or 'body'}: {first['msg']}", "invalid_value", "invalid_request_error", param)


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, SteadyvoiceError):  # raised while FastAPI read a body, which it takes for a malformed one
        return answer_of(error.__cause__)
    return error_response(error.status_code, str(error.detail), f"http_{error.status_code}", "invalid_request_error")


async def _answer_disconnect(_: Request, error: Exception) -> Response:
    """The caller hung up while its body was being read."""
    return error_response(Cancelled.status, "the caller went away", Cancelled.code, Cancelled.type)


async def _answer_bug(_: Request, error: Exception) -> Response:
    # The traceback goes to the log with the request's id, and nowhere else.
    log.error("the request failed", exc_info=error)
    return error_response(500, "internal error", "internal_error", "server_error")
