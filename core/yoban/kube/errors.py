"""What the API server, or the way to it, answers instead of the object that was asked for.

::

    yoban.errors.YobanError
    ├── Retryable
    │   └── ApiError                any answer that is no success; carries `status`, `reason`, `retry_after`
    │       ├── NotFound            404
    │       ├── Conflict            409: another write came first, or a precondition failed
    │       │   └── AlreadyExists   409 AlreadyExists
    │       ├── Gone                410: this version or continue token is compacted away
    │       ├── TooLargeResourceVersion   504 with that cause: the server has not seen this version yet
    │       ├── TooManyRequests     429
    │       ├── Unauthorized        401
    │       ├── Forbidden           403
    │       ├── Rejected            400, 405, 406, 413, 415: the request itself is wrong
    │       │   └── Invalid         422, with the causes by field
    │       ├── ServerError         5xx
    │       │   └── Unreachable     no answer at all: refused, reset, name unknown
    │       ├── Timeout             no answer within our deadline; the write may have happened
    │       └── BadAnswer           the bytes are not what the protocol says

All are `Retryable`: even a rejected object is accepted one day, when its CRD or a webhook changes, and the workqueue's
back-off makes the wait cheap. A controller that knows better raises a `Terminal` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from yoban.errors import Retryable


class ApiError(Retryable):
    """An answer that is no success.

    Attributes:
        status: HTTP status code, 0 when there was no answer.
        api_reason: the server's word (`NotFound`, `Expired`), "" when it gave none.
        details: the server's `details`, a dict that may be empty.
    """

    reason = "ApiError"

    def __init__(
        self,
        message: str,
        *,
        object: str = "",
        status: int = 0,
        api_reason: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        cause: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(message, object=object, cause=cause, fix=fix, retry_after=retry_after)
        self.status = status
        self.api_reason = api_reason
        self.details: Mapping[str, Any] = details or {}


class NotFound(ApiError):
    """404: the object, or the kind itself, is not there."""

    reason = "NotFound"


class Conflict(ApiError):
    """409: somebody wrote in between, or a precondition does not hold. Read again and decide anew."""

    reason = "Conflict"


class AlreadyExists(Conflict):
    """409 AlreadyExists: an object of that name is there."""

    reason = "AlreadyExists"


class Gone(ApiError):
    """410: the resource version or continue token is too old. List again."""

    reason = "Gone"


class TooLargeResourceVersion(ApiError):
    """The server's cache has not reached the resource version asked for. List again with the version unset."""

    reason = "TooLargeResourceVersion"


class TooManyRequests(ApiError):
    """429: the server is busy, or an eviction is not allowed now; `retry_after` in seconds when it says so."""

    reason = "TooManyRequests"


class Unauthorized(ApiError):
    """401: the token or certificate is not accepted, also after the token was read anew."""

    reason = "Unauthorized"


class Forbidden(ApiError):
    """403: RBAC or admission does not allow it."""

    reason = "Forbidden"


class Rejected(ApiError):
    """The request itself is wrong: malformed, too large, of the wrong type."""

    reason = "Rejected"


class Invalid(Rejected):
    """422: the object breaks its schema or a CEL rule; `causes` says which field and why."""

    reason = "Invalid"

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(field, message) of each fault the server named."""
        return [(c.get("field", ""), c.get("message", "")) for c in self.details.get("causes") or ()]


class ServerError(ApiError):
    """5xx: the server failed; the request may have been carried out."""

    reason = "ServerError"


class Unreachable(ServerError):
    """No answer: connection refused or lost, name unknown, TLS failed, no token to be had.

    `sent` tells whether the request may have left.
    """

    reason = "Unreachable"

    def __init__(self, message: str, *, object: str = "", sent: bool = True, cause: str = "", fix: str = "") -> None:
        super().__init__(message, object=object, cause=cause, fix=fix)
        self.sent = sent


class Timeout(ApiError):
    """No answer within the deadline; a write may or may not have happened."""

    reason = "DeadlineExceeded"


class BadAnswer(ApiError):
    """The bytes that came are not what the protocol says: no JSON, a line too long, an event without an object."""

    reason = "BadAnswer"


_BY_CODE: dict[int, type[ApiError]] = {
    400: Rejected,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Rejected,
    406: Rejected,
    409: Conflict,
    410: Gone,
    413: Rejected,
    415: Rejected,
    422: Invalid,
    429: TooManyRequests,
}
_BY_REASON: dict[str, type[ApiError]] = {"AlreadyExists": AlreadyExists, "Expired": Gone, "Gone": Gone}


def from_status(
    status: Mapping[str, Any], *, object: str = "", code: int = 0, retry_after: float | None = None
) -> ApiError:
    """The error that a `Status` object means, from a body or from an ERROR event.

    `code` is the HTTP status, used when the object names none. Never raises: what is missing reads as empty.
    """
    raw_code = status.get("code")
    code = raw_code if isinstance(raw_code, int) and raw_code else code
    api_reason = str(status.get("reason") or "")
    raw_details = status.get("details")
    details: Mapping[str, Any] = raw_details if isinstance(raw_details, Mapping) else {}
    kind = _BY_REASON.get(api_reason) or _BY_CODE.get(code)
    if kind is None:
        kind = ServerError if code >= 500 else ApiError
    if code in (500, 504) and _too_large(details, str(status.get("message") or "")):
        kind = TooLargeResourceVersion
    if retry_after is None and isinstance(details.get("retryAfterSeconds"), int) and details["retryAfterSeconds"] > 0:
        retry_after = float(details["retryAfterSeconds"])
    message = str(status.get("message") or api_reason or f"the API server answered {code}")
    return kind(message, object=object, status=code, api_reason=api_reason, details=details, retry_after=retry_after)


def _too_large(details: Mapping[str, Any], message: str) -> bool:
    causes = details.get("causes") or ()
    if any(isinstance(c, Mapping) and c.get("reason") == "ResourceVersionTooLarge" for c in causes):
        return True
    return "Too large resource version" in message


def from_answer(code: int, headers: Mapping[str, str], body: bytes, *, object: str = "") -> ApiError:
    """The error that an HTTP answer of `code` >= 400 means; a body that is no `Status` (a page) is quoted in short."""
    retry_after = parse_retry_after(headers.get("Retry-After"))
    try:
        status = msgspec.json.decode(body)
    except msgspec.DecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        # The transport's code is what happened; a body that contradicts it is a proxy's or a fault's.
        return from_status({**status, "code": code}, object=object, code=code, retry_after=retry_after)
    text = body[:200].decode(errors="replace").strip()
    return from_status(
        {"message": f"the API server answered {code}" + (f": {text}" if text else "")},
        object=object,
        code=code,
        retry_after=retry_after,
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for; None when it is absent or a date (the API server sends seconds)."""
    if value and value.isascii() and value.isdigit():
        return float(value)
    return None
