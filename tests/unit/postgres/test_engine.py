from __future__ import annotations

import subprocess
import sys

import pytest
from yoban.plugins import Capability, Endpoint
from yoban_postgres.engine import PostgresEngine
from yoban_postgres.names import slot_name
from yoban_postgres.plugin import YOBAN_PLUGIN_API, yoban_engines

engine = PostgresEngine()


def test_the_operator_loads_no_driver_and_no_numpy() -> None:
    program = (
        "import sys; from yoban_postgres.plugin import yoban_engines; list(yoban_engines());"
        "print([m for m in ('asyncpg', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_plugin_and_capabilities() -> None:
    assert YOBAN_PLUGIN_API == (1, 0)
    assert [found.name for found in yoban_engines()] == ["postgres"]
    assert engine.capabilities == frozenset(Capability) - {Capability.SKIP}
    assert [version.name for version in engine.versions()] == ["18", "17", "16", "15", "14"]
    assert engine.versions()[1].image == "docker.io/library/postgres:17"
    layout = engine.layout("17")
    assert (layout.uid, layout.gid, layout.port) == (999, 999, 5432)
    assert [spec.purpose for spec in engine.accounts("orders")] == ["owner"]


def test_uris_are_percent_encoded() -> None:
    found = engine.connection(Endpoint("db.shop.svc", 5432, "a@b", "p:/?#&=ü", "app"))
    assert found["uri"] == "postgresql://a%40b:p%3A%2F%3F%23%26%3D%C3%BC@db.shop.svc:5432/app?sslmode=require"
    assert found["jdbc-uri"].startswith("jdbc:postgresql://db.shop.svc:5432/app?user=a%40b&password=p%3A%2F")


def test_the_schema_describes_everything() -> None:
    schema = engine.config_schema()
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert all(item["description"] for item in properties.values())


@pytest.mark.parametrize(("name", "slot"), [("orders-1", "yoban_orders_1"), ("a" * 60, "yoban_" + "a" * 57)])
def test_slots(name: str, slot: str) -> None:
    assert slot_name(name) == slot
    assert len(slot) <= 63
