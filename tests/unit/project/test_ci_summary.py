"""The summary at the end of a CI run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
JUNIT = """<testsuites><testsuite name="pytest">
<testcase classname="tests.unit.kube.test_a" name="one" time="0.5"/>
<testcase classname="tests.unit.kube.test_a" name="two" time="0.25"><skipped/></testcase>
<testcase classname="tests.e2e.test_b" name="three" time="60">
<failure message="short">a line
E   assert 1 == 2
E    +  where 1 = f()
test_b.py:3: AssertionError</failure></testcase>
<testcase classname="tests.e2e.test_b" name="four" time="1"><error message="no fixture"/></testcase>
<testcase classname="elsewhere.test_c" name="five" time="1"/>
</testsuite></testsuites>"""


@pytest.fixture
def summary() -> ModuleType:
    spec = importlib.util.spec_from_file_location("summary", ROOT / ".ci" / "summary.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tests_are_counted_by_kind(summary: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(JUNIT)
    assert summary.tests(report) == Counter(passed=2, failed=2, skipped=1)
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["unit"] == ["1", "0", "1", "0.8"]
    assert rows["e2e"] == ["0", "2", "0", "61.0"]
    assert rows["other"] == ["1", "0", "0", "1.0"]


@pytest.mark.parametrize(("covered", "code"), [(True, 0), (False, 1)])
def test_the_last_line_is_the_count_and_low_coverage_fails(tmp_path: Path, covered: bool, code: int) -> None:
    package = tmp_path / "yoban"
    package.mkdir()
    (package / "__init__.py").write_text("")
    body = "x = 1\n" if covered else "def f(a):\n" + "".join(f"    a += {n}\n" for n in range(50))
    (package / "thing.py").write_text(body)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "junit.xml").write_text(JUNIT)
    (tmp_path / ".coveragerc").write_text("[run]\nbranch = true\nparallel = true\nsource = yoban\n")
    clean = {"PATH": os.environ["PATH"]}
    run = [sys.executable, "-m", "coverage", "run", "-m", "yoban.thing"]
    subprocess.run(run, cwd=tmp_path, env=clean, check=True, timeout=60)
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "summary.py"), "junit.xml"],
        cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "2 passed, 2 failed, 1 skipped"
    told = done.stdout[done.stdout.index("failed: ") :].splitlines()[:5]
    assert told == [
        "failed: tests.e2e.test_b::three",
        "    E   assert 1 == 2",
        "    E    +  where 1 = f()",
        "failed: tests.e2e.test_b::four",
        "    no fixture",
    ]
    assert ("is below 90 %" in done.stdout) is not covered
    assert "yoban.thing" in done.stdout
