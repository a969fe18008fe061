"""From archived files of the binary log to relay logs that hold exactly what a recovery is to apply. Blocking.

Guarantees: the relay logs hold, in log order, each transaction that belongs to the history and is not in the base backup,
once, up to the target and not one further; and what they hold is known, so that the server's result can be compared with
it. A gap, or a file that does not go on from what was fed before, is named. Bytes of transactions are not changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

from yoban.errors import IntegrityError
from yoban.plugins import RecoveryPlan, TargetType
from yoban.plugins.files import own, replace_file

from yoban_mysql import segments
from yoban_mysql.binlog import BinlogFile, Transaction
from yoban_mysql.gtid import Gtid, GtidSet
from yoban_mysql.names import RELAY_LOG
from yoban_mysql.targets import parse_gtid, skipped

_COPY = 8 << 20


@dataclass(frozen=True, slots=True)
class Fed:
    """How far a recovery has been fed.

    Attributes:
        have: the base backup's transactions and all that were taken since, those that are left out too.
        files: how many relay logs there are.
        passed: the target was met, or passed: nothing more is taken.
        last_commit: time of the last commit taken, None when none was.
        had: `have` before the first of these relay logs.
        size: bytes of these relay logs.
        full: no more is taken before they are applied.
    """

    have: GtidSet
    files: int = 0
    passed: bool = False
    last_commit: datetime | None = None
    had: GtidSet = field(default_factory=GtidSet)
    size: int = 0
    full: bool = False

    def applied(self) -> Fed:
        """Return the state when all relay logs were applied and removed. Pure."""
        return replace(self, files=0, had=self.have, size=0, full=False)

    def text(self) -> str:
        """Return it as text for `parse`."""
        sets = {"have": str(self.have), "had": str(self.had)}
        return json.dumps(asdict(self) | sets | {"last_commit": self._moment()})

    def _moment(self) -> str:
        return self.last_commit.isoformat() if self.last_commit else ""

    @classmethod
    def parse(cls, text: str) -> Fed:
        """Understand what `text` gave."""
        found = json.loads(text)
        moment = datetime.fromisoformat(found["last_commit"]) if found["last_commit"] else None
        had = GtidSet.parse(found["had"])
        return cls(
            GtidSet.parse(found["have"]), found["files"], found["passed"], moment, had, found["size"], found["full"]
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a file is applied: byte ranges in order, and how far the recovery is then."""

    ranges: tuple[tuple[int, int], ...]
    fed: Fed


def select(plan: RecoveryPlan, name: str, transactions: Iterable[Transaction], fed: Fed) -> Selection:
    """Choose what of an archived file is applied. Pure.

    Args:
        plan: of the recovery.
        name: of the file in the archive.
        transactions: whole transactions of the file, in order.
        fed: before it.

    Raises:
        IntegrityError: the file does not go on from what was fed (reason `LogGap`), or the target is no place of this
            history (`TargetNotReached`).
    """
    if fed.passed:
        return Selection((), fed)
    place = segments.parse(name)
    fork = next((fork.position for fork in plan.forks if fork.parent == place.line), None)
    shared = GtidSet.parse(fork) if fork is not None else None
    if place.before > fed.have.count and (shared is None or fed.have.count < shared.count):
        raise IntegrityError(
            f"{place.before - fed.have.count} transactions before it are missing",
            object=f"log/{place.line}/{name}",
            fix="restore to a time before them, or bring the missing file back",
            reason="LogGap",
        )
    leave, wanted = skipped(plan.target), _wanted(plan)
    left = (wanted - fed.have).count if wanted is not None else -1
    taken: list[Gtid] = []
    ranges: list[tuple[int, int]] = []
    passed, last = left == 0, fed.last_commit
    for one in transactions:
        if passed:
            break
        if one.gtid in fed.have or (shared is not None and one.gtid not in shared):
            continue
        if wanted is not None and one.gtid not in wanted:
            if plan.target.type is TargetType.POSITION:
                raise IntegrityError(
                    "the position is no place of this history",
                    object=f"target {plan.target.value[:200]}",
                    cause=f"{one.gtid} lies before its end and is not in it",
                    fix="take a position that a server of this Database was at",
                    reason="TargetNotReached",
                )
        else:
            left -= 1
        if _beyond(plan, one):
            passed = True
            break
        taken.append(one.gtid)
        if one.gtid not in leave:
            last = one.committed
            if ranges and ranges[-1][1] == one.start:
                ranges[-1] = (ranges[-1][0], one.end)
            else:
                ranges.append((one.start, one.end))
        passed = left == 0 or (plan.target.type is TargetType.TRANSACTION and one.gtid == parse_gtid(plan.target.value))
    have = fed.have | GtidSet.of(taken)
    chosen = replace(fed, have=have, files=fed.files + bool(ranges), passed=passed, last_commit=last)
    return Selection(tuple(ranges), chosen)


def met(plan: RecoveryPlan, fed: Fed) -> str:
    """Return why what was fed does not lead to the target, "" when it does. Pure."""
    target = plan.target
    if target.type is TargetType.TRANSACTION and not fed.passed:
        return f"the log ends before transaction {target.value}"
    wanted = GtidSet()
    if target.type is TargetType.POSITION:
        wanted = GtidSet.parse(target.value)
    elif target.type is TargetType.LATEST or (target.type is TargetType.TIME and not fed.passed):
        wanted = GtidSet.parse(plan.end or plan.backup_end)
    missing = wanted - fed.have
    return f"transactions of the target are missing in the log: {str(missing)[:400]}" if missing else ""


def feed(folder: Path, plan: RecoveryPlan, name: str, path: Path, fed: Fed, window: int) -> Fed:
    """Take one archived file; write what is to be applied of it as the next relay log in `folder`.

    Args:
        folder: of the data.
        plan: of the recovery.
        name: of the file in the archive.
        path: of a copy of it, which may be moved.
        fed: before it.
        window: bytes of relay logs from which on no more is taken before they are applied.

    Raises:
        IntegrityError: as `select`, or the file is damaged (reason `LogDamaged`).
    """
    if fed.passed:
        return fed
    with path.open("rb", buffering=1 << 18) as source:
        try:
            log = BinlogFile(source, path.stat().st_size)
            chosen = select(plan, name, log.transactions(), fed)
        except IntegrityError as error:
            if error.reason != "IntegrityError":
                raise
            raise IntegrityError(
                f"the archived file is damaged: {error.message}", object=name, cause=error.cause, reason="LogDamaged"
            ) from error
        if not chosen.ranges:
            return chosen.fed
        relay = folder / f"{RELAY_LOG}.{chosen.fed.files:06d}"
        if chosen.ranges == ((log.head, log.end),) or (len(chosen.ranges) == 1 and chosen.ranges[0][0] == log.head):
            path.replace(relay)
            os.truncate(relay, chosen.ranges[0][1])
        else:
            with relay.open("wb") as target:
                for start, end in ((0, log.head), *chosen.ranges):
                    source.seek(start)
                    while start < end:
                        data = source.read(min(_COPY, end - start))
                        target.write(data)
                        start += len(data)
    own(relay)
    size = fed.size + relay.stat().st_size
    last = chosen.fed.passed or not plan.segments or name == plan.segments[-1]
    return replace(chosen.fed, size=size, full=size >= window and not last)


def write_index(folder: Path, files: int) -> None:
    """Write the index that tells the server of its relay logs."""
    text = "".join(f"./{RELAY_LOG}.{number:06d}\n" for number in range(1, files + 1))
    replace_file(folder / f"{RELAY_LOG}.index", text, 0o640)


def clear(folder: Path) -> None:
    """Remove relay logs of an earlier attempt."""
    for file in folder.glob(f"{RELAY_LOG}.*"):
        file.unlink()


def start(plan: RecoveryPlan) -> Fed:
    """Return the state before anything is fed. Pure."""
    base = GtidSet.parse(plan.backup_end)
    fed = Fed(base, had=base)
    return replace(fed, passed=True) if plan.target.type is TargetType.IMMEDIATE else fed


def _wanted(plan: RecoveryPlan) -> GtidSet | None:
    """The set at which to stop; None where something else tells. LATEST is what was proven: what is stored beyond it may be
    later than the moment that was asked for."""
    if plan.target.type is TargetType.POSITION:
        return GtidSet.parse(plan.target.value)
    if plan.target.type is TargetType.LATEST:
        return GtidSet.parse(plan.end or plan.backup_end)
    return None


def _beyond(plan: RecoveryPlan, one: Transaction) -> bool:
    """Whether the target lies before a transaction."""
    target = plan.target
    if target.type is TargetType.TIME:
        bound = datetime.fromisoformat(target.value)
        return one.committed >= bound if target.exclusive else one.committed > bound
    return target.type is TargetType.TRANSACTION and target.exclusive and one.gtid == parse_gtid(target.value)
