"""Finding commands, help, exit codes."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from yoban import __version__
from yoban.cli import kubectl, main
from yoban.errors import InvalidInput


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in main.COMMANDS.items():
        assert f"  {name}" in text
        assert command.help in text


def test_no_command_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "usage: yoban COMMAND" in capsys.readouterr().out


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["fly"]) == 2
    assert "unknown command 'fly'" in capsys.readouterr().err


def test_kubectl_has_the_commands_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert kubectl.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "kubectl yoban COMMAND" in text
    assert "operator" not in text
    assert kubectl.main(["operator"]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert main.main(["version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"yoban {__version__}\nyoban {__version__}, plugin API 1.0, Python ")


def test_arguments_of_the_process_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["yoban", "--version"])
    assert main.main() == 0
    assert kubectl.main() == 0


def raising(error: BaseException) -> Any:
    def run(_: list[str]) -> int:
        raise error

    return lambda _: SimpleNamespace(main=run)


def test_an_error_of_ours_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = InvalidInput("is wrong", object="thing", cause="because", fix="mend it")
    monkeypatch.setattr("importlib.import_module", raising(error))
    assert main.main(["version"]) == 1
    assert capsys.readouterr().err == "yoban version: thing: is wrong (because); mend it\n"


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", raising(KeyboardInterrupt()))
    assert main.main(["version"]) == 130


def test_a_reader_that_has_enough_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -u -m yoban.cli.main crds | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_a_command_loads_nothing_of_another() -> None:
    code = "import sys; from yoban.cli.main import main; main(['version']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    for heavy in ("pydantic", "aiohttp", "kubernetes_asyncio", "opentelemetry.sdk"):
        assert f" {heavy} " not in loaded


def test_the_agent_says_what_its_pod_lacks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("YOBAN_NAMESPACE", "YOBAN_INSTANCE", "YOBAN_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    assert main.main(["agent"]) == 64
    assert "YOBAN_" in capsys.readouterr().err
