"""What is written, loaded and told of settings. No server runs: the program that checks them is scripted."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yoban.plugins import Configured, Durability, DurabilityMode, Finished, InstanceContext, Role
from yoban_postgres import binaries
from yoban_postgres.configure import Configuration
from yoban_postgres.session import Kept

from tests.unit.postgres.test_server import Scripted, context

FINE = Finished(0, b"", b"")
ASYNC = Durability(DurabilityMode.ASYNC, 0)
SYNCHRONOUS = Durability(DurabilityMode.SYNCHRONOUS, 1)


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "folder", lambda version: Path("/usr/lib/postgresql") / version / "bin")


class Checking(Scripted):
    """The server's program: rejects settings by their line, as the real one does."""

    def __init__(self, *values: str) -> None:
        super().__init__(FINE)
        self.values = values

    async def run(self, argv: Any, **more: Any) -> Finished:
        self.asked.append(list(argv))
        candidate = Path(next(word for word in argv if word.startswith("--config-file=")).partition("=")[2])
        for number, line in enumerate(candidate.read_text().split("\n"), 1):
            if any(value in line for value in self.values):
                words = f'LOG:  invalid value in file "{candidate}" line {number}\n'
                return Finished(1, b"", words.encode())
        return FINE


class Running:
    """A server's connection: counts reloads; its configuration files are loaded."""

    def __init__(self) -> None:
        self.reloads = 0
        self.answers = True

    async def fetchval(self, query: str, *_: object) -> object:
        if "pg_reload_conf" in query:
            self.reloads += 1
            return True
        assert "pg_conf_load_time" in query
        return 1e12 + (self.reloads if self.answers else 0)

    async def fetch(self, *_: object) -> list[object]:
        return []

    def terminate(self) -> None:
        pass


def instance(folder: Path, *values: str, **changes: Any) -> InstanceContext:
    made = context(folder, version="15")
    made.data.mkdir(parents=True)
    return replace(made, processes=Checking(*values), **changes)


def in_file(ctx: InstanceContext, name: str, file: str = "postgresql.conf") -> list[str]:
    lines = (ctx.data / file).read_text().split("\n")
    return [line.partition(" = ")[2] for line in lines if line.partition(" = ")[0] == name]


@pytest.fixture
def configuration() -> Configuration:
    return Configuration(Kept())


async def stopped(configuration: Configuration, ctx: InstanceContext, role: Role = Role.PRIMARY) -> Configured:
    return await configuration.apply(ctx, role, None, running=False)


@pytest.mark.parametrize("value", ["off", "local", "Remote_Write"])
async def test_bug_commits_that_no_replica_held_after_a_change_to_synchronous(
    tmp_path: Path, configuration: Configuration, value: str
) -> None:
    ctx = instance(tmp_path, settings={"synchronous_commit": value}, durability=ASYNC)
    assert (await stopped(configuration, ctx)).rejected == ()
    assert in_file(ctx, "synchronous_commit") == []
    strict = replace(ctx, durability=SYNCHRONOUS)
    for _ in range(2):
        answer = await stopped(configuration, strict)
        assert [problem.name for problem in answer.rejected] == ["synchronous_commit"]
        assert "no replica holds" in answer.rejected[0].message
        assert in_file(ctx, "synchronous_commit") == ["'on'"]
    assert (await stopped(configuration, ctx)).rejected == ()
    assert in_file(ctx, "synchronous_commit") == []


async def test_bug_commits_that_no_replica_held_when_another_setting_changed_too(
    tmp_path: Path, configuration: Configuration
) -> None:
    ctx = instance(tmp_path, settings={"synchronous_commit": "off"}, durability=ASYNC)
    await stopped(configuration, ctx)
    both = replace(ctx, settings={"synchronous_commit": "off", "work_mem": "9MB"}, durability=SYNCHRONOUS)
    answer = await stopped(configuration, both)
    assert [problem.name for problem in answer.rejected] == ["synchronous_commit"]
    assert in_file(ctx, "synchronous_commit") == ["'on'"]
    assert in_file(ctx, "work_mem", "yoban-settings.conf") == []


async def test_bug_a_rejection_that_outlived_its_durability(tmp_path: Path, configuration: Configuration) -> None:
    ctx = instance(tmp_path, settings={"work_mem": "9MB"}, durability=SYNCHRONOUS)
    await stopped(configuration, ctx)
    changed = replace(ctx, settings={"synchronous_commit": "off"})
    assert [problem.name for problem in (await stopped(configuration, changed)).rejected] == ["synchronous_commit"]
    assert (await stopped(configuration, replace(changed, durability=ASYNC))).rejected == ()
    assert in_file(ctx, "synchronous_commit", "yoban-settings.conf") == ["'off'"]


async def test_bug_a_rejection_that_outlived_the_memory_it_was_for(
    tmp_path: Path, configuration: Configuration
) -> None:
    ctx = instance(tmp_path, settings={}, memory=1 << 30)
    await stopped(configuration, ctx)
    changed = replace(ctx, settings={"shared_buffers": "1GB"})
    assert [problem.name for problem in (await stopped(configuration, changed)).rejected] == ["shared_buffers"]
    assert (await stopped(configuration, replace(changed, memory=4 << 30))).rejected == ()


@pytest.mark.parametrize("value", ["on", "remote_apply", "TRUE"])
async def test_what_waits_for_replicas_is_the_owners_choice(
    tmp_path: Path, configuration: Configuration, value: str
) -> None:
    ctx = instance(tmp_path, settings={"synchronous_commit": value}, durability=SYNCHRONOUS)
    assert (await stopped(configuration, ctx)).rejected == ()
    assert in_file(ctx, "synchronous_commit") == []


async def test_a_rejection_is_not_asked_for_again(tmp_path: Path, configuration: Configuration) -> None:
    ctx = instance(tmp_path, "nonsense", settings={})
    await stopped(configuration, ctx)
    changed = replace(ctx, settings={"work_mem": "nonsense", "max_wal_senders": "1"})
    first = await stopped(configuration, changed)
    assert isinstance(ctx.processes, Checking)
    asked = len(ctx.processes.asked)
    assert await stopped(configuration, changed) == first
    assert [problem.name for problem in first.rejected] == ["max_wal_senders", "work_mem"]
    assert len(ctx.processes.asked) == asked


async def test_bug_no_bound_on_slots_after_a_rejected_setting_at_the_first_start(
    tmp_path: Path, configuration: Configuration
) -> None:
    ours = {"max_slot_wal_keep_size": "1GB", "shared_buffers": "64MB", "work_mem": "4MB"}
    wrong = {"work_mem": "nonsense", "superuser_reserved_connections": "90", "reserved_connections": "120"}
    ctx = instance(tmp_path, "nonsense", settings={**ours, **wrong})
    for _ in range(2):
        answer = await stopped(configuration, ctx)
        named = [problem.name for problem in answer.rejected]
        assert named == ["superuser_reserved_connections", "work_mem"]
        assert in_file(ctx, "max_slot_wal_keep_size", "yoban-settings.conf") == ["'1GB'"]
        assert in_file(ctx, "shared_buffers", "yoban-settings.conf") == ["'64MB'"]
        # The default stands in; what would contradict the rest at the start of the server is left out as well.
        assert in_file(ctx, "work_mem", "yoban-settings.conf") == ["'4MB'"]
        assert in_file(ctx, "reserved_connections", "yoban-settings.conf") == []


async def test_bug_no_bound_on_slots_when_that_is_the_rejected_setting(
    tmp_path: Path, configuration: Configuration
) -> None:
    """A default of ours that the server does not take itself stands in for nothing."""
    wrong = {"max_slot_wal_keep_size": "nonsense", "wal_compression": "nonsense"}
    ctx = instance(tmp_path, "nonsense", "lz4", settings=wrong)
    answer = await stopped(configuration, ctx)
    assert [problem.name for problem in answer.rejected] == ["max_slot_wal_keep_size", "wal_compression"]
    assert in_file(ctx, "max_slot_wal_keep_size", "yoban-settings.conf") == ["'1GB'"]
    assert in_file(ctx, "wal_compression", "yoban-settings.conf") == []


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
async def test_bug_a_value_that_never_equals_itself(tmp_path: Path, configuration: Configuration, mark: str) -> None:
    ctx = instance(tmp_path, settings={"myapp.greeting": f"it's{mark}fine", "work_mem": "9MB"})
    await stopped(configuration, ctx)
    assert isinstance(ctx.processes, Checking)
    asked = len(ctx.processes.asked)
    assert await stopped(configuration, ctx) == Configured()
    assert len(ctx.processes.asked) == asked


async def test_bug_certificates_that_a_running_server_never_loaded(
    tmp_path: Path, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoban_postgres import configure

    server = Running()

    @contextlib.asynccontextmanager
    async def use(*_: object) -> AsyncIterator[Running]:
        yield server

    monkeypatch.setattr(Kept, "use", use)
    monkeypatch.setattr(configure, "_RELOAD_WAIT", 0.01)
    ctx = instance(tmp_path)
    for path in (ctx.tls.ca, ctx.tls.certificate, ctx.tls.key):
        path.write_text("old")

    async def care() -> int:
        before = server.reloads
        await configuration.apply(ctx, Role.PRIMARY, None, running=True)
        return server.reloads - before

    await stopped(configuration, ctx)
    assert await care() == 0
    for path in (ctx.tls.ca, ctx.tls.certificate, ctx.tls.key):
        path.write_text("new")
        server.answers = False
        assert await care() == 1, "a reload that was lost"
        server.answers = True
        assert (await care(), await care()) == (1, 0)
    (ctx.run / "loaded-tls").unlink()  # an agent of an older release has started the server
    assert (await care(), await care()) == (1, 0)
    ctx.tls.key.unlink()  # while it is replaced
    assert await care() == 0
