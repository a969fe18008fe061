"""The tree of errors. Every error says which object, why, and what to do next; its class says whether to try again.

::

    YobanError
    ├── Retryable            the same call may succeed later
    │   ├── Unavailable      the other side does not answer, or answers "not now"
    │   ├── DeadlineExceeded the answer did not come in time
    │   └── NotReady         something that must come first is not there yet
    └── Terminal             the same call will fail again until somebody changes something
        ├── InvalidInput     what the user wrote cannot work
        ├── NotFound         it is proven absent (never used for "could not look")
        ├── AccessDenied     credentials missing, wrong or not sufficient
        ├── OwnedByAnother   somebody else's data is there already
        ├── IntegrityError   stored data is not what was recorded: damaged, cut short, missing in the middle
        ├── Unsupported      the engine or store lacks the capability
        └── PluginError      a plugin breaks the contract

A `Retryable` goes back to the queue with back-off; a `Terminal` becomes a condition whose reason is `error.reason`.
"""

from __future__ import annotations


class YobanError(Exception):
    """Base of all errors of this project.

    Args:
        message: what happened, one sentence without a final full stop.
        object: the thing it happened to (`Database shop/orders`, an object key, a plugin), or "".
        cause: why, as far as known, or "".
        fix: what to do next, an imperative sentence, or "".
        reason: CamelCase word for a condition; the class's own `reason` when empty.
    """

    reason: str = "Error"

    def __init__(self, message: str, *, object: str = "", cause: str = "", fix: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.object = object
        self.cause = cause
        self.fix = fix
        if reason:
            self.reason = reason

    def __str__(self) -> str:
        text = f"{self.object}: {self.message}" if self.object else self.message
        if self.cause:
            text += f" ({self.cause})"
        if self.fix:
            text += f"; {self.fix}"
        return text


class Retryable(YobanError):
    """The same call may succeed later; `retry_after` is the other side's wish in seconds, None when it has none."""

    reason = "Retrying"

    def __init__(
        self,
        message: str,
        *,
        object: str = "",
        cause: str = "",
        fix: str = "",
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, object=object, cause=cause, fix=fix, reason=reason)
        self.retry_after = retry_after


class Terminal(YobanError):
    """The same call will fail again until somebody changes something."""

    reason = "Failed"


class Unavailable(Retryable):
    """The other side does not answer, or answers that it cannot now."""

    reason = "Unavailable"


class DeadlineExceeded(Retryable):
    """No answer within the deadline; the work may or may not have been done."""

    reason = "DeadlineExceeded"


class NotReady(Retryable):
    """Something that must come first is not there yet."""

    reason = "NotReady"


class InvalidInput(Terminal):
    """What the user asked for cannot work as written."""

    reason = "InvalidSpec"


class NotFound(Terminal):
    """Proven absent. An answer that merely did not arrive is `Unavailable`, never this."""

    reason = "NotFound"


class AccessDenied(Terminal):
    """Credentials are missing, wrong, or do not allow it."""

    reason = "AccessDenied"


class OwnedByAnother(Terminal):
    """Data of somebody else is already there; nothing was changed."""

    reason = "OwnedByAnother"


class IntegrityError(Terminal):
    """Stored data is not what was recorded: damaged, cut short, or missing in the middle."""

    reason = "IntegrityError"


class Unsupported(Terminal):
    """The engine or the store does not have this capability."""

    reason = "Unsupported"


class PluginError(Terminal):
    """A plugin breaks the contract; start-up stops."""

    reason = "PluginError"
