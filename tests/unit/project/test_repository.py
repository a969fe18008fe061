"""What must hold for the repository as a whole."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DISTRIBUTIONS = ("core", "plugins/postgres", "plugins/mysql", "plugins/s3")
SOURCES = ("core/yoban", "plugins/postgres/yoban_postgres", "plugins/mysql/yoban_mysql", "plugins/s3/yoban_s3")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders or SOURCES:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_core_has_no_word_of_any_engine() -> None:
    words = re.compile(
        r"postgres|mysql|mariadb|mongo|binlog|gtid|pgdata|\bwals?\b|\blsns?\b|\bxids?\b|(?<![a-z])pg_|_lsn|_wal\b|wal_|_xid|xid_",
        re.IGNORECASE,
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules("core/yoban")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert found == []


def test_the_word_list_would_find_them() -> None:
    words = re.compile(r"\bwals?\b|\blsns?\b", re.IGNORECASE)
    assert words.search("the WAL")
    assert not words.search("a wall, walk, false")


def test_no_module_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules()}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > 600} == {}
    assert statistics.median(n for n in lengths.values() if n > 5) <= 170


def test_every_module_says_what_it_guarantees() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base"}
    assert [str(path) for path in modules() if path.stem in drawers or path.parent.name in drawers] == []


def test_no_unfinished_work_is_left() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in (".py", ".md", ".yaml", ".tpl", ".c", ".toml") and path != Path(__file__)
        if marks.search(path.read_text(errors="ignore"))
    ]
    assert found == []


def test_the_top_level_is_as_fixed() -> None:
    allowed = {
        "pyproject.toml", "core", "plugins", "deploy", "tests", "docs", "README.md", "LICENSE", "CHANGELOG.md",
        "CONTRIBUTING.md", "Makefile", "requirements.lock",
    }  # fmt: skip
    found = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in found if not name.startswith(".")} == allowed


def test_versions_agree() -> None:
    from yoban import __version__

    versions = {
        tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]["version"] for name in DISTRIBUTIONS
    }
    chart = (ROOT / "deploy/chart/Chart.yaml").read_text()
    assert versions == {__version__}
    assert f"appVersion: {__version__}\n" in chart
    assert f"version: {__version__}\n" in chart
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_lock_is_pinned_hashed_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash=sha256:", ""), re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==\S+", block), block
        assert "--hash=sha256:" in block, block


def test_every_dependency_is_locked() -> None:
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    wanted = [one for group in workspace.values() for one in group]
    for name in DISTRIBUTIONS:
        wanted += tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[ ;]", one)[0].lower().replace("_", "-") for one in wanted}
    assert {name for name in names if not name.startswith("yoban")} - locked == set()


def test_nothing_names_a_machine() -> None:
    # Pieces, so that this file does not contain what it looks for.
    wrong = re.compile(
        "|".join(["/" + "root/", "/" + "work/", "/" + r"home/\w+/", r"artifact" + "ory", r"nex" + r"us\."])
    )
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix not in (".lock", ".sum", ".png", ".svg")
        for match in [wrong.search(path.read_text(errors="ignore"))]
        if match
    ]
    assert found == []


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_each_distribution_says_what_it_is(name: str) -> None:
    project = tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.11"
    assert project["description"]
    assert (ROOT / name / project["readme"]).read_text().strip()


def test_every_package_is_typed_for_others() -> None:
    for folder in SOURCES:
        assert (ROOT / folder / "py.typed").exists(), folder
