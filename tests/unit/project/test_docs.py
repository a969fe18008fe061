"""Documentation cannot fall behind: commands exist, hooks and facets are described, generated pages are current."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yoban.plugins
from yoban.cli.main import COMMANDS
from yoban.plugins.hookspecs import HookSpecs

from docs import generate

ROOT = Path(__file__).parents[3]
GENERATED = generate.pages()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> Iterator[str]:
    """Lines of shell that a page shows."""
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text(), re.DOTALL):
        yield from (line.strip().removeprefix("$ ") for line in block.splitlines())


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_has_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE)) == make_targets()
    wanted = {
        "help",
        "test",
        "demo",
        "check",
        "lab",
        "lab-down",
        "image",
        "bench",
        "demo-down",
        "test-unit",
        "lock",
        "docs",
    }
    assert wanted <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_commands_that_are_shown_exist(page: Path) -> None:
    shown = {name for line in commands(page) for name in re.findall(r"(?:^|\s)make ([a-z-]+)", line)}
    shown |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))
    assert shown <= make_targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yoban_commands_that_are_shown_exist(page: Path) -> None:
    shown = set(re.findall(r"(?:`|^)(?:kubectl )?yoban ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert shown <= set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_generated_pages_are_current(name: str) -> None:
    assert (generate.REFERENCE / name).read_text() == GENERATED[name], "run `make docs`"


def test_every_metric_says_what_it_means() -> None:
    found = generate.instruments()
    assert len(found) > 30
    assert [one.name for one in found if not one.about] == []


def test_metrics_are_named_as_prometheus_gets_them() -> None:
    """The page's rule for names is the renderer's."""
    from yoban.telemetry.setup import build

    telemetry = build("t", "", {})
    meter = telemetry.meters.get_meter("m")
    meter.create_counter("a.b", unit="By").add(1)
    meter.create_gauge("c.d", unit="s").set(1)
    text = telemetry.metrics_text()[0].decode()
    assert f"\n{generate._metric('a.b', 'By', 'counter')} " in text
    assert f"\n{generate._metric('c.d', 's', 'gauge')} " in text


def test_every_hook_is_documented() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    for name, hook in vars(HookSpecs).items():
        if name.startswith("yoban_"):
            assert f"`{name}" in text
            assert inspect.getdoc(hook)


def test_every_facet_and_method_is_documented() -> None:
    text = (ROOT / "docs" / "write-a-plugin.md").read_text()
    for name in ("Engine", "Positions", "Targets", "Server", "Replication", "BaseBackup", "LogSource", "Recovery"):
        facet = getattr(yoban.plugins, name)
        assert f"`{name}`" in text, name
        missing = [method for method in sorted(facet.__abstractmethods__) if f"`{method}" not in text]
        assert missing == [], f"{name}: {missing}"


def test_every_public_name_of_the_plugin_api_is_described() -> None:
    for name in yoban.plugins.__all__:
        thing = getattr(yoban.plugins, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name
            assert thing.__module__.startswith("yoban.plugins"), name
    exported = {name for name in vars(yoban.plugins) if not name.startswith("_") and name[0].isupper()}
    assert exported == {name for name in yoban.plugins.__all__ if name[0].isupper()}


def test_every_public_method_of_the_contract_says_what_it_does() -> None:
    for name in yoban.plugins.__all__:
        thing = getattr(yoban.plugins, name)
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    assert inspect.getdoc(function), f"{name}.{method}"
