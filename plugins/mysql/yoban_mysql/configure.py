"""Applies the configuration of one instance: checks, writes, sets what can be set without a restart.

Guarantees: a setting that the server would reject changes nothing of the user's settings in force; what an instance needs
for its role is written all the same. The file that the server is started with is written only while it is stopped, so that
it tells, with the role, what the running server was started with: what differs since and cannot be set waits for a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from yoban.plugins import Configured, InstanceContext, Peer, Role, SettingProblem
from yoban.plugins.files import digest_of, empty_folder, make_folder, replace_file

from yoban_mysql import catalogue, follow, line, live, options, reign, scheduled
from yoban_mysql.configuration import (
    ENGINES,
    LIVE,
    fixed_settings,
    main_text,
    most_sessions,
    role_in,
    temporary_folder,
    with_ours,
)
from yoban_mysql.names import LOADED_TLS, MAIN_CONF, USER_CONF
from yoban_mysql.session import Kept, Session
from yoban_mysql.settings import doubled, number, problem_with, rule, variable

OPENED = frozenset({"event_scheduler"})
"""Settings of the user's that take effect when a primary is opened, and not before."""


@dataclass(frozen=True, slots=True)
class _Rejection:
    settings: Mapping[str, str]
    problems: tuple[SettingProblem, ...]


class Configuration:
    """Applies configurations. Remembers the last rejection, and values that the server rounds, so as not to try for ever."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._rejection: dict[str, _Rejection] = {}
        self._rounded: dict[tuple[str, str, str], str] = {}
        self._waiting: dict[str, set[str]] = {}
        """Settings that the server turned out not to take while it runs, by data folder."""

    async def apply(self, ctx: InstanceContext, role: Role, upstream: Peer | None, *, running: bool) -> Configured:
        """See `Server.configure`."""
        wanted = dict(ctx.settings)
        present = await asyncio.to_thread(in_force, ctx)
        problems: tuple[SettingProblem, ...] = ()
        changed: set[str] = set()
        if present != wanted:
            problems = await self._problems(ctx, role, wanted)
            if not problems and running:
                problems = await self._set(ctx, present or {}, wanted)
            if not problems:
                changed = _differing(present or {}, wanted)
                await asyncio.to_thread(replace_file, ctx.data / USER_CONF, options.text(wanted))
        effective = wanted if not problems else (present or {})
        if not running:
            await asyncio.to_thread(_write_main, ctx, role, effective)
            self._waiting.pop(str(ctx.data), None)
            return Configured(tuple(sorted(changed)), (), problems)
        async with self._kept.use(ctx) as session:
            await line.note_base(session, ctx)
            await self._keep(session, ctx, role, effective)
            await _reload_tls(session, ctx)
            if role is Role.PRIMARY:
                await reign.open_writes(session, ctx, effective)
                await scheduled.note(session, ctx)
            else:
                await reign.close_writes(session)
                if role is Role.REPLICA:
                    await follow.ensure(session, ctx, upstream)
        pending = await asyncio.to_thread(pending_restart, ctx, self._waiting.get(str(ctx.data), set()))
        return Configured(tuple(sorted(changed - set(pending))), pending, problems)

    async def _problems(
        self, ctx: InstanceContext, role: Role, wanted: Mapping[str, str]
    ) -> tuple[SettingProblem, ...]:
        last = self._rejection.get(str(ctx.data))
        if last is not None and last.settings == wanted:
            return last.problems
        found = {name: problem for name, value in wanted.items() if (problem := problem_with(name, value, ctx.memory))}
        found |= doubled(wanted)
        left = {name: value for name, value in wanted.items() if name not in found}
        found |= await catalogue.rejected(ctx, left, fixed_settings(ctx, role))
        return self._note(ctx, wanted, found)

    async def _set(
        self, ctx: InstanceContext, present: Mapping[str, str], wanted: Mapping[str, str]
    ) -> tuple[SettingProblem, ...]:
        """Set what differs on the running server. A setting that is rejected there changes nothing."""
        values = {name: wanted[name] for name in _differing(present, wanted) if name in wanted}
        gone = [name for name in present if name not in wanted and not _waits(name)]
        values = {name: value for name, value in values.items() if not _waits(name) and variable(name) not in OPENED}
        async with self._kept.use(ctx) as session:
            done = await live.apply(session, values, gone)
        self._waiting.setdefault(str(ctx.data), set()).update(variable(name) for name in done.waiting)
        return self._note(ctx, wanted, done.rejected)

    def _note(
        self, ctx: InstanceContext, wanted: Mapping[str, str], found: Mapping[str, str]
    ) -> tuple[SettingProblem, ...]:
        problems = tuple(SettingProblem(name, found[name]) for name in sorted(found))
        if problems:
            self._rejection[str(ctx.data)] = _Rejection(dict(wanted), problems)
        else:
            self._rejection.pop(str(ctx.data), None)
        return problems

    async def _keep(self, session: Session, ctx: InstanceContext, role: Role, effective: Mapping[str, str]) -> None:
        """Set what is not as it should be: somebody changed it, or an agent was replaced before it had set it."""
        fixed = fixed_settings(ctx, role)
        wanted = {
            variable(name): value
            for name, value in effective.items()
            if not _waits(name) and variable(name) not in OPENED
        }
        wanted |= {name: fixed[name] for name in LIVE}
        running = await live.values(session, [*wanted, "max_connections"])
        if connections := number(running.get("max_connections", "")):  # fewer than wanted where it may open few files
            wanted["max_user_connections"] = str(most_sessions(connections, len(ctx.peers) + 1))
        waiting = self._waiting.setdefault(str(ctx.data), set())
        for name, value in wanted.items():
            if name in waiting:
                continue
            key = (str(ctx.data), name, value)
            if name not in running or live.same(running[name], value) or self._rounded.get(key) == running[name]:
                continue
            done = await live.apply(session, {name: value})
            waiting.update(done.waiting)
            after = await live.values(session, [name])
            if done.changed and not live.same(after[name], value):
                self._rounded[key] = after[name]
            if name == "rpl_semi_sync_replica_enabled":
                await follow.reconnect(session)


def in_force(ctx: InstanceContext) -> dict[str, str] | None:
    """Return the settings that were accepted last; None when there never were any. Blocking."""
    return _read(ctx, USER_CONF)


def started_role(ctx: InstanceContext) -> Role | None:
    """Return the role for which the server was started; None when it never was. Blocking."""
    try:
        return role_in((ctx.data / MAIN_CONF).read_text())
    except FileNotFoundError:
        return None


def pending_restart(ctx: InstanceContext, waiting: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the settings in force that the server was not started with, and that it cannot take while it runs. Blocking.

    Args:
        ctx: the instance.
        waiting: variables that turned out so, beside those that are known to.
    """
    started = {variable(name): value for name, value in (_read(ctx, MAIN_CONF) or {}).items()}
    wanted = in_force(ctx) or {}
    whole = with_ours({variable(name): value for name, value in wanted.items()}, Role.PRIMARY)
    waits = set(waiting)
    found = {
        name
        for name in wanted
        if (_waits(name) or variable(name) in waits) and started.get(variable(name)) != whole[variable(name)]
    }
    present = {variable(name) for name in wanted} | set(fixed_settings(ctx, Role.PRIMARY))
    if started.get(ENGINES) == whole[ENGINES]:
        present.add(ENGINES)
    found |= {name for name in started if (_waits(name) or name in waits) and name not in present}
    return tuple(sorted(found))


def _waits(name: str) -> bool:
    return rule(name).kind.value == "restart"


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _read(ctx: InstanceContext, file: str) -> dict[str, str] | None:
    try:
        return options.parse((ctx.data / file).read_text())
    except FileNotFoundError:
        return None


def _write_main(ctx: InstanceContext, role: Role, effective: Mapping[str, str]) -> None:
    for folder in (ctx.run, temporary_folder(ctx)):
        make_folder(folder)
    empty_folder(temporary_folder(ctx))
    settings = with_ours({variable(name): value for name, value in effective.items()}, role)
    replace_file(ctx.data / MAIN_CONF, main_text(settings, fixed_settings(ctx, role), role))
    replace_file(ctx.run / LOADED_TLS, _certificates(ctx))


async def _reload_tls(session: Session, ctx: InstanceContext) -> None:
    """Make the server read certificates that were replaced since it read them. A pair that does not fit changes nothing."""
    found, loaded = await asyncio.to_thread(lambda: (_certificates(ctx), _text(ctx)))
    if found and found != loaded:
        await session.execute("ALTER INSTANCE RELOAD TLS")
        await asyncio.to_thread(replace_file, ctx.run / LOADED_TLS, found)


def _certificates(ctx: InstanceContext) -> str:
    """Return a digest of what the server loads; "" while a file is missing."""
    return digest_of((ctx.tls.ca, ctx.tls.certificate, ctx.tls.key))


def _text(ctx: InstanceContext) -> str:
    try:
        return (ctx.run / LOADED_TLS).read_text()
    except FileNotFoundError:
        return ""
