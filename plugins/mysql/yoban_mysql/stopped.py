"""What a stopped server has executed, read from its binary logs.

Guarantees the set that the server will have when it is started again: whole transactions in its log are committed then, and
one that is cut is not. Blocking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yoban.errors import IntegrityError

from yoban_mysql.binlog import BinlogFile
from yoban_mysql.gtid import GtidSet
from yoban_mysql.line import base, log_index


@dataclass(frozen=True, slots=True)
class Executed:
    """What it has executed, and whether it was stopped cleanly."""

    gtids: GtidSet
    clean: bool


def executed(data: Path) -> Executed | None:
    """Return what a stopped server has executed; None for data that was never started with a log (a fresh copy).

    Raises:
        IntegrityError: a file of the log is damaged, or none can be read.
    """
    paths = log_index(data)
    last: IntegrityError | None = None
    for path in reversed(paths):
        try:
            with path.open("rb") as file:
                found = BinlogFile(file, path.stat().st_size).contents()
        except FileNotFoundError:
            continue  # a crash in the middle of a rotation
        except IntegrityError as error:
            if last is not None:
                raise
            last = error  # the same: its head was not written yet
            continue
        return Executed(found.after | base(data), found.closed and last is None)
    if last is not None:
        raise last
    return None
