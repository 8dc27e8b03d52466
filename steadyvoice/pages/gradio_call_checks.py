"""Gradio's routes as clients may misuse them: endpoints and sessions that do not exist, names that no file can have.

Gradio (as of 6.31) raises there, so that the client gets 500 or half an answer, and the log a traceback.

Knows Gradio and HTTP; knows nothing of what the endpoints do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr
from gradio.data_classes import PredictBody
from gradio_client import utils as client_utils
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadyvoice.api.errors import error_response
from steadyvoice.errors import InvalidInput, NotFound

log = logging.getLogger(__name__)

MAX_SESSION_HASH = 64  # characters; the clients' have 36 at most
MAX_FILE_PATH = 255  # bytes; Linux takes no longer name, and the page's files have shorter paths
NAMED_ARGUMENTS = TypeAdapter(dict[str, Any])

Check = Callable[[Mapping[str, Any], bytes], None]  # of a route's path parameters and its body


class WholeBody:
    """A route of Gradio's with a JSON body, which is read and checked before Gradio sees it.

    Errors while a body is read are answered by the app that this one is mounted in: a caller that goes away, a body that stops
    arriving, and one that is too large. Gradio's app would take them for bugs.
    """

    def __init__(self, app: ASGIApp, check: Check) -> None:
        """`check` raises for a body that is to be refused."""
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        self._check(scope["path_params"], body)
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


class EventStream:
    """A stream of Gradio's events. One that Gradio ends with an exception ends like any other.

    Gradio tells the client of a session that does not exist in an event of the stream, and then raises.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started |= message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            if not started:
                raise
            log.info("an event stream of the page ended early: %s", type(error).__name__)
            await send({"type": "http.response.body"})


class ShortPath:
    """A route to Gradio's own files. No file has a longer path, and Gradio raises where the file system does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_long = len(scope["path"].encode(errors="replace")) > MAX_FILE_PATH
        missing = error_response(404, "there is no such file", "not_found", "invalid_request_error")
        await (missing if too_long else self._app)(scope, receive, send)


class Endpoints:
    """The endpoints of a page. Clients call the public ones by name, and the page all of them by number."""

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page

    def check_call(self, path: Mapping[str, Any], body: bytes) -> None:
        """A call with a list of values.

        Raises:
            NotFound: there is no such endpoint.
            InvalidInput: the body is no call.
        """
        call = _call(body)
        if call.fn_index is not None:
            if call.fn_index not in self._page.fns:
                raise NotFound(f"there is no endpoint of number {call.fn_index}", param="fn_index")
        elif "api_name" in path:
            self._check_name(path["api_name"])
        else:
            raise InvalidInput("fn_index is missing", param="fn_index")

    def check_simple_call(self, path: Mapping[str, Any], body: bytes) -> None:
        """As `check_call`, where the endpoint is told in the path alone."""
        self._check_name(path["api_name"])
        _call(body)

    def check_named_call(self, path: Mapping[str, Any], body: bytes) -> None:
        """As `check_simple_call`, with arguments by name."""
        self._check_name(path["api_name"])
        arguments = _parsed(NAMED_ARGUMENTS.validate_json, body)
        parameters = self._page.get_api_info()["named_endpoints"]["/" + path["api_name"]]["parameters"]
        try:
            client_utils.construct_args(parameters, (), arguments)
        except TypeError:
            known = ", ".join(str(parameter["parameter_name"]) for parameter in parameters)
            raise InvalidInput(f"the arguments are not those of the endpoint: {known}") from None

    def _check_name(self, name: str) -> None:
        public = sorted(str(fn.api_name) for fn in self._page.fns.values() if fn.api_visibility == "public")
        if name not in public:
            raise NotFound(f"there is no such endpoint; there are: {', '.join(public)}", param="api_name")


def _call(body: bytes) -> PredictBody:
    call: PredictBody = _parsed(PredictBody.model_validate_json, body)
    # Gradio keeps it, and takes an empty one for none in one place and not in the others.
    if call.session_hash is not None and not 0 < len(call.session_hash) <= MAX_SESSION_HASH:
        raise InvalidInput(
            f"session_hash has {len(call.session_hash)} characters; allowed: 1 to {MAX_SESSION_HASH}", param="session_hash"
        )
    return call


def _parsed(parse: Callable[[bytes], Any], body: bytes) -> Any:
    """Raises InvalidInput, naming the field."""
    try:
        return parse(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"][:2])) or "body"
        raise InvalidInput(f"{param}: {first['msg']}", param=param) from None
