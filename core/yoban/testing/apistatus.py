"""Answers that are no success, as a Kubernetes API server words them. For the fake API server and for faults."""

from __future__ import annotations

import json
from typing import Any

from yoban.kube.objects import Obj
from yoban.kube.transport import Answer


class Rejection(Exception):
    """An answer that is no success; raised inside."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details

    def status(self) -> Obj:
        """The `Status` object."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def status_answer(code: int, reason: str = "", message: str = "", *, retry_after: int | None = None) -> Answer:
    """A failure as a real server sends it, for `FakeApiServer.fail`."""
    headers = {"Content-Type": "application/json"}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    return Answer(
        code, headers, json.dumps(Rejection(code, reason, message or f"failed with {code}").status()).encode()
    )


def failure(rejection: Rejection) -> Answer:
    """The HTTP answer that a rejection is."""
    return Answer(rejection.code, {"Content-Type": "application/json"}, json.dumps(rejection.status()).encode())
