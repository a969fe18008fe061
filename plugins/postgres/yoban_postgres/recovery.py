"""Facet: restore a base backup, replay the log to a target, stop exactly there.

Guarantees:
- LATEST is replayed as a standby without upstream, which never ends by itself; it counts as reached when every complete
  record up to the plan's end has been replayed, and as failed when the server cannot read on before.
- Any other target is the server's own recovery target with a pause; a log that ends before it is FAILED, with the server's
  last words.
- What was reached is written down before the recovery is left, so `finish` can be called again.
- A log that was written with higher limits than this server has is never taken for the target: it is to be started anew.

Does not fetch segments: the server asks the agent, and an answer other than yes or proven absent ends the recovery.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from yoban.errors import DeadlineExceeded, IntegrityError, NotReady, Unavailable
from yoban.plugins import (
    InstanceContext,
    Recovery,
    RecoveryPlan,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    TargetType,
)
from yoban.plugins.files import make_folder, remove_file, replace_file, sync_folder

from yoban_postgres import controldata, history
from yoban_postgres.configuration import recovery_text
from yoban_postgres.lsn import PAGE, format_lsn, parse_lsn, segment_number, skip_header
from yoban_postgres.names import REACHED_FILE, RECOVERY_CONF, RECOVERY_LOG, RECOVERY_SIGNAL, STANDBY_SIGNAL
from yoban_postgres.positions import make, split
from yoban_postgres.server import wal_folder
from yoban_postgres.session import Kept
from yoban_postgres.settings import LOG_BOUND
from yoban_postgres.standstill import Standstill
from yoban_postgres.targets import parse_time
from yoban_postgres.walrecord import nothing_complete_after

if TYPE_CHECKING:
    import asyncpg

FINISH_DEADLINE = 1200.0
"""A promotion flushes nothing but the log, yet makes every unlogged table empty: many files on a slow volume."""

_WRONG_SIZE = re.compile(r'archive file "([0-9A-F]{24})" has wrong size')
_DAMAGE = re.compile(
    r"(?:invalid|incorrect|unexpected|mismatch|out-of-|BKP|missing contrecord|no contrecord flag|contrecord is requested"
    r"|record length \d+).* (?:at|by) ([0-9A-F]+/[0-9A-F]+)"
)
_DAMAGED_PAGE = re.compile(
    r"(?:invalid|unexpected|out-of-sequence).* in (?:log|WAL) segment ([0-9A-F]{24}),.* offset (\d+)"
)
_TOO_LOW = re.compile(r"DETAIL:  (\w+ = \d+ is a lower setting than on the primary server.*)")
_ROUTINE = ("restored log file", "waiting for WAL")

_STATE = """
select pg_is_in_recovery() as recovering,
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() end as paused,
       pg_last_wal_replay_lsn()::text as replayed, pg_last_xact_replay_timestamp() as last_commit,
       (select setting::bigint from pg_settings where name = 'wal_segment_size') as segment_bytes,
       coalesce((select wait_event = 'RecoveryRetrieveRetryInterval'
                   from pg_stat_activity where backend_type = 'startup'), false) as retrying
"""
_LIMITS = "select name, setting::bigint as value from pg_settings where name = any($1::text[])"


class PostgresRecovery(Recovery):
    """Restores into an empty instance."""

    def __init__(self, kept: Kept, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept = kept
        self._standstill = Standstill(clock)

    def place(self, ctx: InstanceContext, path: str) -> Path:
        """See `Recovery.place`: tablespaces go below the data, the log to its volume."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or "\x00" in path or any(part in ("..", ".") for part in path.split("/")):
            raise IntegrityError("the backup names a file outside its folder", object=f"path {path[:200]!r}")
        if parts[0] == "pg_tblspc" and len(parts) >= 2:
            if not parts[1].isdigit():
                raise IntegrityError("the backup names no tablespace", object=f"path {path[:200]!r}")
            return ctx.data.joinpath("tablespaces", *parts[1:])
        if parts[0] == "pg_wal" and (log := wal_folder(ctx)) is not None:
            return log.joinpath(*parts[1:])
        return ctx.data.joinpath(*parts)

    async def placed(self, ctx: InstanceContext) -> None:
        """See `Recovery.placed`: links of tablespaces and log, label, empty folders, permissions."""
        await asyncio.to_thread(_link, ctx)

    async def prepare(self, ctx: InstanceContext, plan: RecoveryPlan) -> None:
        """See `Recovery.prepare`."""
        settings = recovery_settings(plan)

        def write() -> None:
            remove_file(ctx.data / REACHED_FILE)
            remove_file(ctx.run / RECOVERY_LOG)
            replace_file(ctx.data / RECOVERY_CONF, recovery_text(settings))
            wanted, other = STANDBY_SIGNAL, RECOVERY_SIGNAL
            if to_target(plan):
                wanted, other = other, wanted
            remove_file(ctx.data / other)
            replace_file(ctx.data / wanted, "")
            _ensure_history(ctx, plan)

        self._standstill.forget(ctx.run / RECOVERY_LOG)
        await asyncio.to_thread(write)

    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        """See `Recovery.progress`."""
        try:
            async with self._kept.use(ctx) as connection:
                row = await connection.fetchrow(_STATE)
        except Unavailable as error:
            return await asyncio.to_thread(self._unanswered, ctx, plan, error)
        assert row is not None
        line = plan.line or split(plan.backup_end)[0]
        replayed = parse_lsn(row["replayed"]) if row["replayed"] else 0
        position = make(line, replayed) if replayed else None
        state, message = RecoveryState.REPLAYING, ""
        if not row["recovering"]:
            # A target that was not reached is fatal to the server: out of recovery, it was.
            state = RecoveryState.REACHED
            if not to_target(plan) and not await asyncio.to_thread((ctx.data / REACHED_FILE).exists):
                state, message = RecoveryState.FAILED, "the server left recovery before it was asked to"
        elif row["paused"] == "paused" and (message := await self._too_low(ctx)):
            # Not the pause at a target: the server waits here for ever, and resumed it would end.
            state = RecoveryState.RESTART
        elif to_target(plan):
            if row["paused"] == "paused":
                state = RecoveryState.REACHED
        elif plan.end is not None and replayed:
            end = split(plan.end)[1]
            # Behind the proven end only a complete record matters; the file of the line replayed last is asked.
            if await asyncio.to_thread(nothing_complete_after, ctx.data, line, replayed, end, row["segment_bytes"]):
                state = RecoveryState.REACHED
            else:
                size, retrying = row["segment_bytes"], row["retrying"]
                message = await asyncio.to_thread(self._stuck, ctx, line, replayed, end, size, retrying)
                state = RecoveryState.FAILED if message else RecoveryState.REPLAYING
        return RecoveryProgress(state, position, row["last_commit"], message)

    def _unanswered(self, ctx: InstanceContext, plan: RecoveryPlan, error: Unavailable) -> RecoveryProgress:
        """What the log of a server that lets nobody in tells. Blocking."""
        log = ctx.run / RECOVERY_LOG
        # The server makes its log after its lock file: a log without a process means that it has ended.
        if log.exists() and not _runs(ctx):
            words = last_words(log)
            if low := too_low(log):
                return RecoveryProgress(RecoveryState.RESTART, message=low)
            return RecoveryProgress(RecoveryState.FAILED, message=words or "the server ended without a word")
        if not to_target(plan) and self._standstill.lasts(log, 0, retrying=False):
            message = f"the log cannot be read on, before the data is consistent: {last_line(log)}"
            return RecoveryProgress(RecoveryState.FAILED, message=message)
        return RecoveryProgress(RecoveryState.REPLAYING, message=str(error))

    def _stuck(self, ctx: InstanceContext, line: str, replayed: int, end: int, size: int, retrying: bool) -> str:
        """Why a standby cannot replay what is proven to be there, "" when it may. Blocking."""
        log = ctx.run / RECOVERY_LOG
        if damage := damage_at(log, replayed, size, line=line, end=end):
            return f"the log is damaged: {damage}"
        if self._standstill.lasts(log, replayed, retrying=retrying):
            return f"the log cannot be read on after {format_lsn(replayed)}: {last_line(log)}"
        return ""

    async def _too_low(self, ctx: InstanceContext) -> str:
        """Tell which limits are lower than those that the log was written with, "" when none is."""
        wanted = (await controldata.read(ctx)).settings
        async with self._kept.use(ctx) as connection:
            rows = await connection.fetch(_LIMITS, sorted(LOG_BOUND))
        return "; ".join(
            f"{row['name']} is {row['value']}, the log was written with {wanted[row['name']]}"
            for row in sorted(rows, key=lambda row: row["name"])
            if row["value"] < wanted.get(row["name"], 0)
        )

    async def finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        """See `Recovery.finish`.

        Raises:
            NotReady: the target is not reached yet.
            DeadlineExceeded: the server did not leave recovery in time; call again.
        """
        try:
            async with asyncio.timeout(FINISH_DEADLINE):
                return await self._finish(ctx, plan)
        except TimeoutError as error:
            raise DeadlineExceeded("the server did not leave recovery in time", object=ctx.name) from error

    async def _finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        async with self._kept.use(ctx) as connection:
            recovering = await connection.fetchval("select pg_is_in_recovery()")
        if recovering:
            reached = await self.progress(ctx, plan)
            if reached.state is not RecoveryState.REACHED or reached.position is None:
                raise NotReady("the target is not reached yet", object=ctx.name, cause=reached.message)
            note = {
                "position": reached.position,
                "last_commit": reached.last_commit.isoformat() if reached.last_commit else "",
            }
            await asyncio.to_thread(replace_file, ctx.data / REACHED_FILE, json.dumps(note))
            async with self._kept.use(ctx) as connection:
                await self._leave(connection)
        note_text = await asyncio.to_thread(_read, ctx.data / REACHED_FILE)
        async with self._kept.use(ctx) as connection:
            promotion = await history.current(connection, ctx)
        kept = json.loads(note_text) if note_text else {}
        moment = kept.get("last_commit", "")
        return RecoveryReached(
            position=promotion.fork,
            last_commit=datetime.fromisoformat(moment) if moment else None,
            line=promotion.line,
            parent=promotion.parent,
        )

    async def _leave(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        # At a target, too: there replay is over, and a resume would end recovery only after a whole checkpoint.
        await connection.fetchval("select pg_promote(false)")
        while await connection.fetchval("select pg_is_in_recovery()"):  # noqa: ASYNC110 (the server sends no event)
            await asyncio.sleep(0.05)


def to_target(plan: RecoveryPlan) -> bool:
    """Tell whether the server itself stops at the plan's target; else it replays all there is and waits.

    A position at the proven end is everything: no record begins there, at which the server could stop.
    """
    if not plan.has_log:
        return True
    if plan.target.type is TargetType.POSITION and plan.end is not None:
        return _place(plan) < split(plan.end)[1]
    return plan.target.type is not TargetType.LATEST


def recovery_settings(plan: RecoveryPlan) -> Mapping[str, str]:
    """Return the recovery settings of a plan."""
    found = {"recovery_target_timeline": str(int(plan.line, 16)) if plan.line else "current"}
    # Why the server cannot go on is read in its log.
    found |= {"lc_messages": "C", "log_error_verbosity": "default"}
    if not to_target(plan):
        # A standby says only at this level that a file has the wrong size, and asks for it again for ever.
        return {**found, "log_min_messages": "debug1"}
    target = plan.target
    found["recovery_target_action"] = "pause"
    if not plan.has_log or target.type is TargetType.IMMEDIATE:
        return {**found, "recovery_target": "immediate"}
    found["recovery_target_inclusive"] = "off" if target.exclusive else "on"
    if target.type is TargetType.TIME:
        found["recovery_target_time"] = parse_time(target.value).strftime("%Y-%m-%d %H:%M:%S.%f+00")
    elif target.type is TargetType.POSITION:
        found["recovery_target_lsn"] = format_lsn(_place(plan))
    elif target.type is TargetType.TRANSACTION:
        found["recovery_target_xid"] = str(int(target.value) & 0xFFFFFFFF)
    elif target.type is TargetType.NAME:
        found["recovery_target_name"] = target.value
    return found


def last_words(log: Path) -> str:
    """Return the last FATAL or PANIC line of a log without its prefix; "" when there is none."""
    fatal = re.findall(r"(?:FATAL|PANIC):  (.*)", _tail(log))
    # Sessions that come too early are told so by the same word.
    fatal = [words for words in fatal if not words.startswith(("the database system is", "terminating "))]
    return fatal[-1] if fatal else ""


def too_low(log: Path) -> str:
    """Return which limit a server ended for, lower than what the log was written with; "" when it was something else."""
    found = _TOO_LOW.findall(_tail(log))
    return str(found[-1]) if found and "insufficient parameter settings" in last_words(log) else ""


def last_line(log: Path) -> str:
    """Return the last line of a log, without its prefix, that is not about fetching; "" when there is none."""
    lines = [
        words for words in re.findall(r"(?:LOG|DEBUG|WARNING):  (.*)", _tail(log)) if not words.startswith(_ROUTINE)
    ]
    return str(lines[-1]) if lines else ""


def damage_at(log: Path, replayed: int, segment_bytes: int, *, line: str, end: int) -> str:
    """Return what the server says of log after the replayed place that it cannot read; "" when nothing.

    Args:
        log: the server's log.
        replayed: how far it is; of damaged records only one right behind counts.
        segment_bytes: size of a segment.
        line: whose files are looked at for damaged pages: an older line's may end anywhere.
        end: what lies beyond may be padding, and is read ahead.
    """
    places = {replayed, skip_header(replayed, segment_bytes)}
    for words in reversed(re.findall(r"(?:LOG|DEBUG):  (.*)", _tail(log))):
        cut = _WRONG_SIZE.search(words)
        if cut is not None and segment_number(cut[1], segment_bytes) >= replayed // segment_bytes:
            return str(words)
        match = _DAMAGE.search(words)
        if match is not None and parse_lsn(match[1]) in places:
            return str(words)
        page = _DAMAGED_PAGE.search(words)
        if page is not None and page[1].startswith(line):
            at = segment_number(page[1], segment_bytes) * segment_bytes + int(page[2])
            if replayed - replayed % PAGE <= at < end:
                return str(words)
    return ""


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65536))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _place(plan: RecoveryPlan) -> int:
    value = plan.target.value
    return split(value)[1] if ":" in value else parse_lsn(value)


def _runs(ctx: InstanceContext) -> bool:
    """Tell whether the process that wrote the lock file is there; a file left behind by an end is told by its pid."""
    try:
        pid = int((ctx.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, IndexError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _ensure_history(ctx: InstanceContext, plan: RecoveryPlan) -> None:
    """Write how the plan's line came about, which the server reads where the archive has no such file."""
    if int(plan.line or "0", 16) <= 1 or not (plan.forks or split(plan.backup_end)[0] == plan.line):
        return
    file = ctx.data / "pg_wal" / f"{plan.line}.history"
    if not file.exists():
        replace_file(file, history.text(plan.forks))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _link(ctx: InstanceContext) -> None:
    for name in ("pg_tblspc", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp",
                 "pg_subtrans", "pg_stat", "pg_twophase", "pg_commit_ts", "pg_logical"):  # fmt: skip
        make_folder(ctx.data / name)
    log = wal_folder(ctx)
    wal = ctx.data / "pg_wal"
    if log is not None:
        make_folder(log)
        if wal.is_dir() and not wal.is_symlink():
            wal.rmdir()
        _symlink(wal, log)
    else:
        make_folder(wal)
    make_folder(wal / "archive_status")
    spaces = ctx.data / "tablespaces"
    lines: list[str] = []
    if spaces.is_dir():
        for folder in sorted(spaces.iterdir(), key=lambda path: path.name):
            _symlink(ctx.data / "pg_tblspc" / folder.name, folder)
            folder.chmod(0o700)
            lines.append(f"{folder.name} {folder}\n")
    # The server makes links from this file at the first start, so it must name the new places.
    if lines:
        replace_file(ctx.data / "tablespace_map", "".join(lines))
    else:
        remove_file(ctx.data / "tablespace_map")
    if not (ctx.data / "backup_label").is_file():
        raise IntegrityError(
            "the backup has no label, without which its data is not consistent", object=str(ctx.data / "backup_label")
        )
    ctx.data.chmod(0o700)
    sync_folder(ctx.data)


def _symlink(link: Path, target: Path) -> None:
    if link.is_symlink():
        if link.readlink() == target:
            return
        link.unlink()
    link.symlink_to(target)
