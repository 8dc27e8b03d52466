"""A page with one job at a time: Start, Stop and the status line. Knows nothing of what the job is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr
from cachetools import LRUCache

from steadyvoice.admission.identity import caller_of
from steadyvoice.pages.base import QUIET, Texts, say

MAX_TABS = 10_000  # that are remembered as stopped


class StoppedTabs:
    """Tabs in which Stop was pressed after the last Start.

    Gradio's own cancel knows only jobs that have begun; a Stop just before would be lost.
    """

    def __init__(self) -> None:
        self._stopped: LRUCache[str, bool] = LRUCache(MAX_TABS)

    def begin(self, request: gr.Request) -> None:
        self._stopped.pop(_tab_of(request), None)

    def stop(self, request: gr.Request) -> None:
        self._stopped[_tab_of(request)] = True

    def is_stopped(self, request: gr.Request) -> bool:
        return _tab_of(request) in self._stopped


def _tab_of(request: gr.Request) -> str:
    """One tab of one visitor. The session hash is the client's choice, so by itself it would reach other visitors' tabs."""
    return f"{caller_of(request)} {request.session_hash}"


class JobPage:
    """A page with one job at a time: what both have in common. Handlers answer with {component: value}.

    A page sets `start`, `stop`, `status`, `inputs` and `outputs`, and says what its job is in `run`, and which of its outputs are
    emptied when a job starts in `cleared`, and when it is stopped in `silenced`.
    """

    texts: Texts
    start: gr.Button
    stop: gr.Button
    status: gr.HTML
    inputs: list[Any] | set[Any]
    outputs: list[Any]

    def __init__(self) -> None:
        self.stopped_tabs = StoppedTabs()

    def run(self, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        """The job: takes the values of `inputs`, as one dictionary if it is a set, and the request; yields as it goes."""
        raise TypeError(f"{type(self).__name__} has no job to run")

    def cleared(self) -> dict[Any, Any]:
        return {}

    def silenced(self) -> dict[Any, Any]:
        return {}

    def greet(self, request: gr.Request) -> dict[Any, Any]:
        """When the page is opened."""
        return {self.status: say(self.texts, request, "ready")}

    def begin(self, request: gr.Request) -> dict[Any, Any]:
        """Called at once when Start is pressed, before the queue: the previous result is cleared."""
        self.stopped_tabs.begin(request)
        return {self.status: say(self.texts, request, "working"), **self.cleared()}

    def stopped(self, request: gr.Request) -> dict[Any, Any]:
        """When the job has been stopped."""
        self.stopped_tabs.stop(request)
        return {self.status: say(self.texts, request, "stopped"), **self.silenced()}

    def refused(self, request: gr.Request) -> dict[Any, Any]:
        """When the job did not even begin, or ended by a bug. A cancelled run counts as a failed one."""
        key = "stopped" if self.stopped_tabs.is_stopped(request) else "refused"
        return {self.status: say(self.texts, request, key)}


def connect(page: gr.Blocks, job: JobPage) -> None:
    """Connect the buttons with the job. Called inside `with page`."""
    page.load(job.greet, None, job.outputs, **QUIET)
    started = job.start.click(job.begin, None, job.outputs, **QUIET)
    running = started.then(
        job.run,
        job.inputs,
        job.outputs,
        show_progress="minimal",
        show_progress_on=job.status,
        api_visibility="private",
    )
    running.failure(job.refused, None, job.outputs, **QUIET)
    job.stop.click(job.stopped, None, job.outputs, cancels=[running], **QUIET)
