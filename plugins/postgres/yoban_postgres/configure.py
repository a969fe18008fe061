"""Applies the configuration of one instance: checks, writes, reloads.

Guarantees: a setting that the server would reject changes nothing of the user's settings in force, and is left out where
none are in force yet; what an instance needs for its role is written all the same. A reload that was asked for and lost
(the agent was replaced in between) is asked for again, and certificates that were replaced are loaded. Signal files are
only touched while the server is stopped.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
from collections.abc import Mapping
from dataclasses import dataclass

from yoban.plugins import Configured, DurabilityMode, InstanceContext, Peer, Role, ServerFacts, SettingProblem
from yoban.plugins.files import digest_of, remove_file, replace_file

from yoban_postgres import catalogue, controldata
from yoban_postgres.configuration import (
    HEADER,
    fixed_settings,
    hba_text,
    ident_text,
    main_text,
    raise_sizes,
    raise_to,
    user_text,
)
from yoban_postgres.names import (
    AUTO_CONF,
    HBA_CONF,
    IDENT_CONF,
    LOADED_TLS,
    MAIN_CONF,
    RECOVERY_CONF,
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    USER_CONF,
)
from yoban_postgres.session import Kept
from yoban_postgres.settings import conflicts_with_synchronous, contradictions, defaults, problem_with

_SETTING = re.compile(r"^([A-Za-z_][\w.$]*) = '(.*)'$")
_RELOAD_WAIT = 3.0
_CLOCK_GRAIN = 0.02
"""Times of files lag behind the clock by some milliseconds; a reload too many does no harm."""

UNREPORTED = ("recovery_target%", "log_directory", "log_filename", "log_rotation%")
"""Settings of ours whose pending restart concerns nobody."""


@dataclass(frozen=True, slots=True)
class _Answer:
    settings: Mapping[str, str]
    rejected: Mapping[str, str]


class Configuration:
    """Applies configurations. Remembers what the program rejects, so that it is not asked again every few seconds."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._answers: dict[str, _Answer] = {}
        self._control: dict[str, tuple[tuple[int, int], controldata.ControlData]] = {}

    async def apply(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        """See `Server.configure`."""
        version = int(ctx.version.split(".")[0])
        wanted = {**_locale_settings(ctx), **ctx.settings}
        present = await asyncio.to_thread(_read_settings, ctx, USER_CONF)
        found = _plain_problems(ctx, wanted)
        if present != wanted:
            found |= await self._rejected(ctx, {name: value for name, value in wanted.items() if name not in found})
        problems = tuple(SettingProblem(name, found[name]) for name in sorted(found))
        effective = wanted if not problems else present
        if effective is None:
            effective = await _without(ctx, wanted, found)
        accepted = not problems or present is None
        floor = await self._raised(ctx, role, effective)
        fixed = fixed_settings(ctx, role, upstream, version, effective, floor)
        changed, written = await asyncio.to_thread(self._write, ctx, role, effective, accepted, fixed, running)
        pending: tuple[str, ...] = ()
        if running:
            await self._reload(ctx, force=written)
            pending = await self._pending(ctx)
        changed -= set(pending)
        return Configured(tuple(sorted(changed)), pending, problems)

    async def _rejected(self, ctx: InstanceContext, settings: Mapping[str, str]) -> Mapping[str, str]:
        last = self._answers.get(str(ctx.data))
        if last is None or last.settings != settings:
            last = _Answer(settings, await catalogue.rejected(ctx, settings))
            self._answers[str(ctx.data)] = last
        return last.rejected

    async def _raised(self, ctx: InstanceContext, role: Role, effective: Mapping[str, str]) -> dict[str, str]:
        """What the data demands: sizes of at least two segments, and for replay what the log was written with."""
        try:
            stat = await asyncio.to_thread((ctx.data / "global" / "pg_control").stat)
        except FileNotFoundError:
            return {}
        stamp = (stat.st_mtime_ns, stat.st_ino)
        known = self._control.get(str(ctx.data))
        if known is None or known[0] != stamp:
            known = (stamp, await controldata.read(ctx))
            self._control[str(ctx.data)] = known
        found = known[1]
        replay = raise_to(effective, found.settings) if role is not Role.PRIMARY else {}
        return {**raise_sizes(effective, found.segment_bytes), **replay}

    def _write(
        self,
        ctx: InstanceContext,
        role: Role,
        effective: Mapping[str, str],
        accepted: bool,
        fixed: Mapping[str, str],
        running: bool,
    ) -> tuple[set[str], bool]:
        before = {**(_read_settings(ctx, USER_CONF) or {}), **(_read_settings(ctx, MAIN_CONF) or {})}
        written = [
            accepted and replace_file(ctx.data / USER_CONF, user_text(effective)),
            replace_file(ctx.data / HBA_CONF, hba_text()),
            replace_file(ctx.data / IDENT_CONF, ident_text(_os_users(ctx))),
            replace_file(ctx.data / MAIN_CONF, main_text(fixed, ctx.data, role)),
        ]
        auto = ctx.data / AUTO_CONF
        if auto.exists() and any(
            line.strip() and not line.lstrip().startswith("#") for line in auto.read_text(errors="replace").splitlines()
        ):
            written.append(replace_file(auto, HEADER))
        if not running:
            replace_file(ctx.run / LOADED_TLS, _certificates(ctx))
            if role is not Role.RECOVERY:
                remove_file(ctx.data / RECOVERY_SIGNAL)
            if role is Role.REPLICA:
                replace_file(ctx.data / STANDBY_SIGNAL, "")
            elif role is Role.PRIMARY:
                remove_file(ctx.data / STANDBY_SIGNAL)
        if role is not Role.RECOVERY:
            remove_file(ctx.data / RECOVERY_CONF)
        after = {**effective, **fixed}
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        return changed, any(written)

    async def _reload(self, ctx: InstanceContext, *, force: bool) -> None:
        files = [ctx.data / name for name in (MAIN_CONF, USER_CONF, AUTO_CONF, HBA_CONF, IDENT_CONF)]
        newest = await asyncio.to_thread(lambda: max(file.stat().st_mtime for file in files if file.exists()))
        certificates, known = await asyncio.to_thread(lambda: (_certificates(ctx), _loaded_certificates(ctx)))
        rotated = bool(certificates) and certificates != known
        async with self._kept.use(ctx) as connection:
            loaded = await connection.fetchval("select extract(epoch from pg_conf_load_time())::float8")
            if not force and not rotated and loaded >= newest + _CLOCK_GRAIN:
                return
            await connection.fetchval("select pg_reload_conf()")
            try:
                async with asyncio.timeout(_RELOAD_WAIT):
                    while await connection.fetchval("select extract(epoch from pg_conf_load_time())::float8") <= loaded:  # noqa: ASYNC110 (the server sends no event)
                        await asyncio.sleep(0.02)
            except TimeoutError:
                # The next call sees that the files are newer than what is loaded, and asks again.
                connection.terminate()
                return
        if rotated:
            await asyncio.to_thread(replace_file, ctx.run / LOADED_TLS, certificates)

    async def _pending(self, ctx: InstanceContext) -> tuple[str, ...]:
        async with self._kept.use(ctx) as connection:
            rows = await connection.fetch(
                "select name from pg_settings where pending_restart and not name like any($1::text[]) order by name",
                list(UNREPORTED),
            )
        return tuple(row["name"] for row in rows)


def _locale_settings(ctx: InstanceContext) -> dict[str, str]:
    locale = str(ctx.engine_config.get("locale", "C.UTF-8"))
    names = ("lc_monetary", "lc_numeric", "lc_time")
    return {"lc_messages": "C", **dict.fromkeys(names, locale), "default_text_search_config": "pg_catalog.english"}


def _plain_problems(ctx: InstanceContext, wanted: Mapping[str, str]) -> dict[str, str]:
    """What shows without a server. It depends on more than the settings, so it is looked at every time."""
    found = {name: problem for name, value in wanted.items() if (problem := problem_with(name, value, ctx.memory))}
    found |= contradictions(wanted)
    if ctx.durability.mode is DurabilityMode.SYNCHRONOUS:
        found |= conflicts_with_synchronous(wanted)
    return found


async def _without(ctx: InstanceContext, wanted: Mapping[str, str], found: Mapping[str, str]) -> dict[str, str]:
    """Return what to start with when some settings are wrong and none are in force yet: our defaults in their place."""
    wrong = {name.lower() for name in found}
    facts = ServerFacts(ctx.version, ctx.memory, ctx.cpus, len(ctx.peers) + 1)
    ours = {**_locale_settings(ctx), **defaults(facts)}
    instead = {name: value for name, value in ours.items() if name in wrong}
    if instead:
        unfit = await catalogue.rejected(ctx, instead)
        instead = {name: value for name, value in instead.items() if name not in unfit}
    left = {name: value for name, value in wanted.items() if name.lower() not in wrong} | instead
    while more := {name.lower() for name in contradictions(left)}:
        left = {name: value for name, value in left.items() if name.lower() not in more}
    return left


def _certificates(ctx: InstanceContext) -> str:
    """Return a digest of what the server loads; "" while a file is missing."""
    return digest_of((ctx.tls.ca, ctx.tls.certificate, ctx.tls.key))


def _loaded_certificates(ctx: InstanceContext) -> str:
    try:
        return (ctx.run / LOADED_TLS).read_text()
    except FileNotFoundError:
        return ""


def _os_users(ctx: InstanceContext) -> set[str]:
    return {pwd.getpwuid(uid).pw_name for uid in {os.geteuid(), os.getuid()}}


def _read_settings(ctx: InstanceContext, file: str) -> dict[str, str] | None:
    """Read back a file of ours; None when it is not there."""
    try:
        text = (ctx.data / file).read_text()
    except FileNotFoundError:
        return None
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match = _SETTING.match(line)
        if match and not match[1].startswith("include"):
            found[match[1]] = match[2].replace("''", "'").replace("\\\\", "\\")
    return found
