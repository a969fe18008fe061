"""An engine of tests: its pure part, which is all that the operator uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from unittest.mock import Mock

from yoban.plugins import (
    AccountSpec,
    Capability,
    Endpoint,
    Engine,
    EngineVersion,
    Fork,
    Layout,
    Order,
    Position,
    Positions,
    ServerFacts,
    SettingClass,
    SettingRule,
)

LAYOUT = Layout(
    uid=70,
    gid=71,
    user="keeper",
    group="keepers",
    home=PurePosixPath("/var/lib/keeper"),
    data_mount=PurePosixPath("/var/lib/keeper/volume"),
    log_mount=PurePosixPath("/var/lib/keeper/log"),
    port=7000,
    port_name="keeper",
    writable=(PurePosixPath("/var/cache/keeper"),),
)


class Numbers(Positions):
    """Positions are whole numbers; `?` is like no other."""

    def parse(self, text: str) -> Position:
        return Position(text)

    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        if "?" in (a, b):
            return Order.INCOMPARABLE
        return Order.EQUAL if a == b else Order.LESS if int(a) < int(b) else Order.GREATER

    def fork(self, *args: Any) -> Any:
        raise NotImplementedError


class Keeper(Engine):
    """An engine of tests: pure part only."""

    name = "keeper"
    title = "Keeper"
    positions = Numbers()
    server = Mock()
    capable = frozenset({Capability.REPLICAS, Capability.SWITCHOVER, Capability.SYNCHRONOUS, Capability.LOG_VOLUME})

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self.capable

    def versions(self) -> Sequence[EngineVersion]:
        return [EngineVersion("2", "registry.test/keeper:2"), EngineVersion("1", "registry.test/keeper:1")]

    def layout(self, version: str) -> Layout:
        return LAYOUT

    def config_schema(self) -> Mapping[str, object]:
        return {
            "type": "object",
            "additionalProperties": False,
            "properties": {"locale": {"type": "string", "description": "How text sorts."}},
        }

    def setting_rule(self, name: str, version: str) -> SettingRule:
        return {
            "fixed": SettingRule(SettingClass.FIXED, "the operator listens"),
            "refused": SettingRule(SettingClass.REFUSED, "it would lose commits"),
            "slow": SettingRule(SettingClass.RESTART),
            "slots": SettingRule(SettingClass.RESTART, replicas_first=True),
        }.get(name, SettingRule(SettingClass.RELOAD))

    def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
        return {"cache": str(facts.memory // 4)}

    def accounts(self, database: str) -> Sequence[AccountSpec]:
        return [AccountSpec("owner", "app", "app"), AccountSpec("replication", "yoban-replication")]

    def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
        return {"uri": f"keeper://{endpoint.user}:{endpoint.password}@{endpoint.host}:{endpoint.port}"}
