"""Settings: environment, then file, then defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from yoban.runtime.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("YOBAN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("YOBAN_SETTINGS", str(tmp_path / "settings.yaml"))


def test_defaults() -> None:
    settings = Settings()
    assert settings.plugins == ()
    assert settings.namespaces == ()
    assert settings.kubeconfig is None
    assert settings.timings().duration == 15
    assert settings.timings().margin == 2


def test_environment_before_file_before_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("workers: 3\nplugins: [a, b]\nlease_name: mine\n")
    monkeypatch.setenv("YOBAN_WORKERS", "5")
    settings = Settings()
    assert settings.workers == 5
    assert settings.plugins == ("a", "b")
    assert settings.lease_name == "mine"
    assert Settings(workers=7).workers == 7


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOBAN_PLUGINS", "one, two,,")
    monkeypatch.setenv("YOBAN_NAMESPACES", "")
    monkeypatch.setenv("YOBAN_KUBECONFIG", "")
    settings = Settings()
    assert settings.plugins == ("one", "two")
    assert settings.namespaces == ()
    assert settings.kubeconfig is None


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("WORKERS", "0", "workers"),
        ("METRICS_PORT", "99999", "metrics_port"),
        ("LOG_FORMAT", "xml", "log_format"),
        ("LEASE_RENEW_DEADLINE", "20", "renew deadline"),
    ],
)
def test_a_wrong_value_names_its_field(monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str) -> None:
    monkeypatch.setenv(f"YOBAN_{name}", value)
    with pytest.raises(ValidationError, match=field):
        Settings()


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
