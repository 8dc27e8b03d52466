"""All errors of steadyvoice, with their HTTP status.

Knows nothing of HTTP libraries: `api/errors.py` is the one place that turns these into responses.

    SteadyvoiceError                 500
    ├── InvalidInput                 422  a value outside what is allowed; names the value and the choices
    │   ├── UnsupportedMedia         415  bytes that no decoder recognises as audio
    │   ├── TooLarge                 413  over a limit of bytes, seconds or characters
    │   ├── NotFound                 404  there is nothing of that name
    │   │   └── ModelNotFound        404  the request names a model that does not run here
    │   ├── Conflict                 409  there is something of that name already
    │   ├── KeyReused                422  an Idempotency-Key that came with another body before
    │   └── Quarantined              422  it ended the worker twice a moment ago
    ├── Forbidden                    403  a web page of another origin caused the request
    ├── Misdirected                  421  the Host header is not a name of this server
    ├── BodyTimeout                  408  the request's body stopped arriving
    ├── InProgress                   409  the first request with this key is in flight; retry after `retry_after_s`
    ├── Overloaded                   429  the queue is full; try again after `retry_after_s`
    ├── EngineUnavailable            503  the model cannot be loaded, or the server is draining
    ├── DeadlineExceeded             504  the answer did not come within the request's time
    ├── WorkerDied                   500  the item was being worked on when its worker died, twice, alone
    ├── ItemFailed                   500  the model raised on this item
    ├── OutOfMemory                  503  the item alone does not fit the device
    ├── StorageFull                  507  the disk, or the room for the files of the pages, is full
    └── Cancelled                    499  the caller went away or pressed Stop
"""

from __future__ import annotations

LONGEST_WAIT_S = 3_600.0  # the longest Retry-After


class SteadyvoiceError(Exception):
    """Root of the tree. `message` is safe to show to a caller: no path, no traceback, no user's text."""

    status = 500
    code = "internal_error"
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class InvalidInput(SteadyvoiceError):
    status, code, type = 422, "invalid_value", "invalid_request_error"


class UnsupportedMedia(InvalidInput):
    status, code = 415, "unsupported_media"


class TooLarge(InvalidInput):
    status, code = 413, "too_large"


class NotFound(InvalidInput):
    status, code = 404, "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class Conflict(InvalidInput):
    status, code = 409, "conflict"


class KeyReused(InvalidInput):
    code = "idempotency_key_reused"


class Quarantined(InvalidInput):
    code = "quarantined"


class Forbidden(SteadyvoiceError):
    status, code, type = 403, "forbidden_origin", "invalid_request_error"


class Misdirected(SteadyvoiceError):
    status, code, type = 421, "unknown_host", "invalid_request_error"


class BodyTimeout(SteadyvoiceError):
    status, code, type = 408, "request_timeout", "invalid_request_error"


class InProgress(SteadyvoiceError):
    status, code, type = 409, "still_in_progress", "invalid_request_error"


class Overloaded(SteadyvoiceError):
    status, code, type = 429, "queue_full", "rate_limit_error"


class EngineUnavailable(SteadyvoiceError):
    status, code = 503, "engine_unavailable"


class DeadlineExceeded(SteadyvoiceError):
    status, code = 504, "deadline_exceeded"


class WorkerDied(SteadyvoiceError):
    code = "worker_died"


class ItemFailed(SteadyvoiceError):
    code = "item_failed"


class OutOfMemory(SteadyvoiceError):
    status, code = 503, "out_of_memory"


class StorageFull(SteadyvoiceError):
    status, code = 507, "insufficient_storage"


class Cancelled(SteadyvoiceError):
    status, code, type = 499, "cancelled", "invalid_request_error"
