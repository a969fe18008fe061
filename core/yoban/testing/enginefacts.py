"""The pure half of `EngineContract`: what an engine declares, positions, targets, names of the log. No server is needed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

import pytest

from yoban.errors import IntegrityError, InvalidInput, Unsupported
from yoban.plugins import (
    AccountSpec,
    Capability,
    Endpoint,
    Engine,
    InstanceContext,
    Order,
    Position,
    RecoveryTarget,
    ServerFacts,
    SettingClass,
    TargetType,
    Window,
)
from yoban.plugins.checks import check_engine

NASTY = "p:@/?#[]%&=+ '\"\\ü"
"""A password with every character that a URI, a shell or SQL could stumble over."""


class EngineFactsContract:
    """See `EngineContract`, which adds what needs a running server.

    Attributes:
        ascending: at least three positions of one line in ascending order, as users would write them.
        no_positions: texts that are no positions.
    """

    ascending: Sequence[str] = ()
    no_positions: Sequence[str] = ("", "nonsense", "-1", "0x")

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine under test."""
        raise NotImplementedError("give a fixture `engine`")

    @staticmethod
    def lacks(engine: Engine, *capabilities: Capability) -> None:
        """What the engine has no facet for it must not claim to be able to do."""
        assert engine.capabilities.isdisjoint(capabilities)

    # What it declares

    async def test_its_form_is_right(self, engine: Engine) -> None:
        assert check_engine(engine) == []

    async def test_versions_and_images(self, engine: Engine) -> None:
        versions = engine.versions()
        assert versions, "an engine without a version cannot be used"
        assert len({one.name for one in versions}) == len(versions)
        assert all(one.name and one.image for one in versions)

    async def test_layout(self, engine: Engine) -> None:
        for version in engine.versions():
            layout = engine.layout(version.name)
            assert layout.uid > 0, "no server runs as root"
            assert layout.gid > 0
            assert 0 < layout.port < 65536
            mounts = [layout.data_mount, *([layout.log_mount] if layout.log_mount else []), *layout.writable]
            assert all(mount.is_absolute() and mount != mount.parent for mount in mounts)
            assert len(set(mounts)) == len(mounts)
            assert (layout.log_mount is not None) == (Capability.LOG_VOLUME in engine.capabilities)

    async def test_schema_of_engine_config(self, engine: Engine) -> None:
        schema = json.loads(json.dumps(engine.config_schema()))
        assert schema["type"] == "object"
        assert schema["additionalProperties"] is False, "a misspelt field must be noticed"
        for name, field in schema.get("properties", {}).items():
            assert field.get("description"), f"engineConfig.{name} has no description"

    async def test_settings(self, engine: Engine) -> None:
        for version in engine.versions():
            for memory, cpus in ((0, 0.0), (256 << 20, 0.5), (64 << 30, 32.0)):
                settings = engine.default_settings(ServerFacts(version.name, memory, cpus, instances=3))
                assert all(isinstance(value, str) for value in settings.values())
                for name in settings:
                    kind = engine.setting_rule(name, version.name).kind
                    assert kind in (SettingClass.RELOAD, SettingClass.RESTART), f"{name} is a default and {kind.value}"
            assert engine.setting_rule("no_such_setting_at_all", version.name).kind is SettingClass.RELOAD

    async def test_accounts(self, engine: Engine) -> None:
        accounts: Sequence[AccountSpec] = engine.accounts("orders")
        purposes = [one.purpose for one in accounts]
        assert purposes.count("owner") == 1
        assert len(set(purposes)) == len(purposes)
        assert len({one.user for one in accounts}) == len(accounts)

    async def test_connection_strings_survive_any_password(self, engine: Engine) -> None:
        owner = next(one for one in engine.accounts("orders") if one.purpose == "owner")
        entries = engine.connection(Endpoint("orders-rw.shop.svc", 1234, owner.user, NASTY, owner.database))
        assert not {"host", "port", "user", "password", "database"} & set(entries), "those are core's"
        if "uri" in entries:
            parts = urlsplit(entries["uri"])
            if parts.password is not None or NASTY in entries["uri"]:
                assert unquote(parts.password or "") == NASTY
                assert unquote(parts.username or "") == owner.user
            assert (parts.hostname, parts.port) == ("orders-rw.shop.svc", 1234)

    # Positions

    async def test_positions_have_one_canonical_form(self, engine: Engine) -> None:
        assert len(self.ascending) >= 3, "give `ascending`: three positions or more"
        for text in self.ascending:
            position = engine.positions.parse(text)
            assert engine.positions.parse(position) == position
            assert len(position) <= 64 * 1024

    async def test_what_is_no_position_is_rejected(self, engine: Engine) -> None:
        for text in self.no_positions:
            with pytest.raises(InvalidInput):
                engine.positions.parse(text)

    async def test_order_of_positions(self, engine: Engine) -> None:
        positions: list[Position] = [engine.positions.parse(text) for text in self.ascending]
        compare, covers = engine.positions.compare, engine.positions.covers
        for position in positions:
            assert compare(position, position) is Order.EQUAL
            assert covers(position, position)
        for earlier, later in itertools.combinations(positions, 2):
            assert compare(earlier, later) is Order.LESS
            assert compare(later, earlier) is Order.GREATER
            assert covers(later, earlier)
            assert not covers(earlier, later)

    # Targets

    async def test_targets_are_parsed(self, engine: Engine) -> None:
        targets = engine.targets
        if targets is None:
            return self.lacks(engine, Capability.RESTORE)
        for kind in TargetType:
            if kind not in targets.supported:
                with pytest.raises(Unsupported):
                    targets.parse(RecoveryTarget(kind, "1"))
        for kind in targets.supported & {TargetType.LATEST, TargetType.IMMEDIATE}:
            parsed = targets.parse(RecoveryTarget(kind))
            assert parsed.type is kind
            assert targets.parse(parsed) == parsed
        if TargetType.POSITION in targets.supported:
            parsed = targets.parse(RecoveryTarget(TargetType.POSITION, self.ascending[0]))
            assert parsed.value == engine.positions.parse(self.ascending[0])
            with pytest.raises(InvalidInput):
                targets.parse(RecoveryTarget(TargetType.POSITION, self.no_positions[1]))

    async def test_a_time_needs_an_offset(self, engine: Engine) -> None:
        targets = engine.targets
        if targets is None or TargetType.TIME not in targets.supported:
            return self.lacks(engine, Capability.POINT_IN_TIME)
        for text in ("2026-11-23T12:00:00", "2026-11-23", "12:00", "yesterday", ""):
            with pytest.raises(InvalidInput):
                targets.parse(RecoveryTarget(TargetType.TIME, text))
        zulu = targets.parse(RecoveryTarget(TargetType.TIME, "2026-11-23T12:00:00.5Z"))
        offset = targets.parse(RecoveryTarget(TargetType.TIME, "2026-11-23T14:00:00.500+02:00"))
        assert zulu == offset, "equal moments have one canonical form"

    async def test_a_target_outside_of_the_window_is_rejected(self, engine: Engine) -> None:
        targets = engine.targets
        if targets is None or TargetType.TIME not in targets.supported:
            return self.lacks(engine, Capability.POINT_IN_TIME)
        end = datetime(2026, 11, 23, 12, tzinfo=UTC)
        window = Window(end - timedelta(hours=1), end, end, engine.positions.parse(self.ascending[-1]), line="")
        for moment, inside in ((-61, False), (-30, True), (1, False)):
            text = (end + timedelta(minutes=moment)).isoformat()
            target = targets.parse(RecoveryTarget(TargetType.TIME, text))
            if inside:
                targets.check(target, window)
            else:
                with pytest.raises(InvalidInput) as caught:
                    targets.check(target, window)
                for bound in (window.start, window.end):
                    assert f"{bound:%H:%M}" in str(caught.value), "the message names the window"

    # Names and paths

    async def test_names_of_the_log(self, engine: Engine) -> None:
        if engine.log_source is None:
            return self.lacks(engine, Capability.POINT_IN_TIME)
        for name in ("", "..", "../../etc/passwd", "a/b", "no such name"):
            with pytest.raises(InvalidInput):
                engine.log_source.classify(name)

    async def test_nothing_is_placed_outside(self, engine: Engine, context: InstanceContext) -> None:
        if engine.recovery is None:
            return self.lacks(engine, Capability.RESTORE)
        for path in ("../x", "a/../../x", "/etc/passwd", ""):
            with pytest.raises(IntegrityError):
                engine.recovery.place(context, path)

    @pytest.fixture
    def context(self) -> InstanceContext:
        """An empty instance."""
        raise NotImplementedError("give a fixture `context`")
