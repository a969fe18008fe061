"""What the operator noted on a Backup before it acted: which attempt runs where, and how attempts ended.

Guarantees: the note is written before the job is started, on exactly the object that was read, so that an operator that
was restarted finds its job again and two passes never start two. Not status: status may be lost.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from yoban.kube.client import Client
from yoban.kube.objects import Obj, annotations_of, key_of, resource_version_of
from yoban.model.instance import Struct
from yoban.reconcilers.kinds import BACKUP

RUN = "yoban.dev/run"
"""Annotation that holds the journal."""
STORE = "yoban.dev/object-store"
"""Annotation of a Backup that was made for data found in the repository: name of the ObjectStore that has it."""
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(minutes=15)


class Journal(Struct):
    """The present attempt.

    Attributes:
        attempt: from 1.
        id: of the backup in the repository; every attempt has its own.
        instance: who makes it; shipper: the primary then, "" when it is the same.
        started, finished: UTC.
        outcome: "" while it runs, `retry` when another attempt follows, `completed`, `failed`.
        reason, message: of a failure.
        avoid: instances on which attempts failed.
        store, incarnation: ObjectStore and life of the Database that it is for; "" in notes of older releases.
    """

    attempt: int = 1
    id: str
    instance: str
    shipper: str = ""
    started: datetime
    finished: datetime | None = None
    outcome: str = ""
    reason: str = ""
    message: str = ""
    avoid: tuple[str, ...] = ()
    store: str = ""
    incarnation: str = ""

    def job(self, uid: str) -> str:
        """Return the uid of the job: another for each attempt, because an agent does a job once."""
        return uid if self.attempt == 1 else f"{uid}-{self.attempt}"

    def again_at(self) -> datetime:
        """When the next attempt may begin."""
        pause = min(FIRST_PAUSE * (1 << min(max(self.attempt - 1, 0), 10)), LONGEST_PAUSE)
        return (self.finished or self.started) + pause


def read(obj: Obj) -> Journal | None:
    """Return the journal of a Backup; None when nothing was begun, or what stands there is none of ours."""
    text = annotations_of(obj).get(RUN)
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Journal)
    except msgspec.MsgspecError:
        return None


async def write(client: Client, obj: Obj, journal: Journal, annotations: dict[str, str] | None = None) -> Obj:
    """Note it on exactly the object that was read. Raises `Conflict` when it changed meanwhile: the next pass sees it."""
    key = key_of(obj)
    change: dict[str, Any] = {**(annotations or {}), RUN: msgspec.json.encode(journal).decode()}
    return await client.patch(
        BACKUP,
        key.name,
        key.namespace,
        {"metadata": {"annotations": change}},
        resource_version=resource_version_of(obj),
    )
