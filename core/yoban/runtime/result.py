"""What a reconcile says about its next pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one pass; None in its place means "done, until something changes".

    Attributes:
        requeue_after: seconds after which to look again although nothing changed, None for never.
        priority: priority of that pass, None keeps the present one.
        error: a failure that did not keep the pass from going on: counts as one, is retried with back-off, and makes
            `requeue_after` be ignored.
    """

    requeue_after: float | None = None
    priority: int | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        if self.requeue_after is not None and self.requeue_after < 0:
            raise ValueError("requeue_after is a number of seconds from now")
