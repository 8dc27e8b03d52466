"""Which of Gradio's routes are served: what the pages and the two Gradio clients call. Everything else answers 404.

Three routes are ours. Gradio's `file=` fetches URLs and serves more folders than the app's own. Gradio's `cancel` also ends other
jobs of the caller, and completes a job with an answer that no client can read; `reset` belongs to it.
"""

from __future__ import annotations

import asyncio
import mimetypes
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi.responses import FileResponse, JSONResponse, Response
from gradio import utils
from gradio.data_classes import CancelBody, ResetBody
from gradio.server_messages import ProcessCompletedMessage
from pydantic import ValidationError
from starlette.requests import Request
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from steadyvoice.api.errors import error_response
from steadyvoice.pages.gradio_call_checks import Endpoints, EventStream, ShortPath, WholeBody

API = "/gradio_api"
PAGE_ROUTES = ("/", "/config")
# In the page, in its "Use via API" panel, or in gradio_client and @gradio/client. Uploads are in `page_uploads`.
FILE_ROUTES = ("/assets/{path:path}", "/static/{path:path}")
GET_ROUTES = (
    *("/favicon.ico", "/theme.css", "/manifest.json", "/robots.txt"),
    *(f"{API}/info", f"{API}/app_id", f"{API}/startup-events", f"{API}/theme.css"),
    f"{API}/heartbeat/{{session_hash}}",
)
EVENT_ROUTES = tuple(f"{API}/{path}" for path in ("queue/data", "call/{api_name}/{event_id}", "call/v2/{api_name}/{event_id}"))
# Both clients call `cancel` and then `reset`. After its answer gradio_client raises CancelledError, as it should, unless the
# completion of the job reached it first: then the job has an empty result. The wait is for a client that does not call it.
RESET_WAIT_S = 5.0
COMPLETION_DELAY_S = 0.3


def page_router(gradio_app: Any, page: gr.Blocks) -> Router:
    """The page's app behind the routes that are served."""
    jobs, endpoints = Cancellation(page), Endpoints(page)
    calls = {
        "queue/join": endpoints.check_call,
        "run/{api_name}": endpoints.check_call,
        "call/{api_name}": endpoints.check_simple_call,
        "call/v2/{api_name}": endpoints.check_named_call,
    }
    return Router(
        [
            *(Route(path, WithoutQuery(gradio_app), methods=["GET"]) for path in PAGE_ROUTES),
            *(Route(path, ShortPath(gradio_app), methods=["GET"]) for path in FILE_ROUTES),
            *(Route(path, EventStream(gradio_app), methods=["GET"]) for path in EVENT_ROUTES),
            *(Route(path, gradio_app, methods=["GET"]) for path in GET_ROUTES),
            *(Route(f"{API}/{path}", WholeBody(gradio_app, check), methods=["POST"]) for path, check in calls.items()),
            Route(f"{API}/file={{path:path}}", own_file, methods=["GET"]),
            Route(f"{API}/cancel", jobs.cancel, methods=["POST"]),
            Route(f"{API}/reset", jobs.reset, methods=["POST"]),
        ],
        redirect_slashes=False,
        default=unknown,
    )


class WithoutQuery:
    """A route whose query is dropped: `deep_link` would load a page's state from a file, `page` does not exist here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "query_string": b""}, receive, send)


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        answer = error_response(404, "there is no such route", "not_found", "invalid_request_error")
        await answer(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


async def own_file(request: Request) -> Response:
    """An upload or a download of the page, by its path. Files that no player opens are never shown, but saved."""
    folder = Path(utils.get_upload_folder()).resolve()
    try:
        file = (folder / request.path_params["path"]).resolve()
        found = file.is_relative_to(folder) and file.is_file()
    except (OSError, ValueError):  # names that no file can have
        found = False
    if not found:
        return error_response(404, "there is no such file", "not_found", "invalid_request_error")
    media_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    playable = media_type.startswith("audio/")
    return FileResponse(
        file,
        media_type=media_type if playable else "application/octet-stream",
        filename=file.name,
        content_disposition_type="inline" if playable else "attachment",
        headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "private"},
    )


class Cancellation:
    """Ends one job of Gradio's queue, waiting or at work, and tells its client.

    Gradio's own route (as of 6.31) cancels every running job of the caller's session on the same endpoint; those never answer.
    It completes the job with `output={}`, where gradio_client looks for "data" and raises KeyError:
    https://github.com/gradio-app/gradio/pull/8260.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page
        self._resets: dict[str, asyncio.Event] = {}  # of jobs that are cancelled and not yet completed
        self._completions: set[asyncio.Task[None]] = set()  # asyncio itself holds tasks weakly

    async def cancel(self, request: Request) -> Response:
        try:
            body = CancelBody.model_validate_json(await request.body())
        except ValidationError:
            message = "the body needs event_id and session_hash as text, and fn_index as a number"
            return error_response(422, message, "invalid_value", "invalid_request_error")
        queue = self._page._queue
        event = queue.event_ids_to_events.get(body.event_id)
        if event is not None and event.session_hash == body.session_hash and event._id not in self._resets:
            self._resets[event._id] = asyncio.Event()
            await queue.remove_from_queue(event._id)
            await _end_task(event._id)
            completion = asyncio.create_task(self._complete(event))
            self._completions.add(completion)
            completion.add_done_callback(self._completions.discard)
        return JSONResponse({"success": True})

    async def reset(self, request: Request) -> Response:
        try:
            body = ResetBody.model_validate_json(await request.body())
        except ValidationError:
            return error_response(422, "the body needs event_id as text", "invalid_value", "invalid_request_error")
        if cancelled := self._resets.get(body.event_id):
            cancelled.set()
        return JSONResponse({"success": True})

    async def _complete(self, event: Any) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._resets[event._id].wait(), RESET_WAIT_S)
        await asyncio.sleep(COMPLETION_DELAY_S)
        del self._resets[event._id]
        queue = self._page._queue
        if event.session_hash in queue.pending_messages_per_session:  # or the client has gone
            queue.send_message(event, ProcessCompletedMessage(output={"data": []}, success=True))


async def _end_task(event_id: str) -> None:
    """End the task that works on an event, if it has begun. Gradio names it so that it ends in the event's id."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name().endswith(f"<gradio-sep>{event_id}")]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
