"""The tutorial's commands, in its order, in one shell on the lab: what a reader would copy works, and shows what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.installation import Installation, helm
from deploy.demo.kubectl import Kubectl
from deploy.demo.stage import Stage

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
MYSQL_PAGE = ROOT / "docs" / "tutorial-mysql.md"
NAMESPACE = "night"
DEADLINE = 480.0
"""Seconds. It takes about half of it; `make test` may share the machine with others."""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def commands(page: Path) -> list[str]:
    """The blocks of shell that a page shows."""
    return re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def installed(stage: Stage, installation: Installation) -> Iterator[Installation]:
    """The operator, and nothing of an earlier reading; afterwards the operator is as other tests expect it."""
    if not stage.cluster.own:
        pytest.skip("the tutorial is about the lab")
    _remove(installation.kubectl.within(NAMESPACE))
    yield installation
    _remove(installation.kubectl.within(NAMESPACE))
    installation.install()


def _remove(kubectl: Kubectl) -> None:
    if kubectl.get("namespace", NAMESPACE) is None:
        return
    kubectl.run("annotate", "databases,objectstores,backups", "--all", "yoban.dev/skip-cleanup=true", check=False)
    for kind in ("database", "backup", "backuppolicy", "objectstore", "pvc"):
        kubectl.run("delete", kind, "--all", "--timeout=90s", check=False, deadline=100)
    kubectl.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s", deadline=130)


def read(page: Path, folder: Path) -> list[tuple[str, str]]:
    """Run a page's blocks in one shell; return each block with what it printed. Fails at the first command that fails."""
    (folder / "helm").symlink_to(helm())
    blocks = commands(page)
    marks = [f"printf '\\n@@ {number}\\n'" for number in range(len(blocks))]
    script = "\n".join(["set -euo pipefail", *(f"{mark}\n{block}" for mark, block in zip(marks, blocks, strict=True))])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "MAKE", "MFLAGS"))}
    environment |= {"PATH": f"{folder}:{environment['PATH']}", "TMPDIR": str(folder)}
    (folder / "script").write_text(script)
    transcript = folder / "transcript"
    with transcript.open("w") as output:
        done = subprocess.run(
            ["bash", str(folder / "script")], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, timeout=DEADLINE, check=False,
        )  # fmt: skip
    text = transcript.read_text()
    print(text, file=sys.stderr)
    assert done.returncode == 0, f"stopped in block {text.count('@@ ')} of {len(blocks)}: {text[-1500:]}"
    printed = re.split(r"^@@ \d+$", text, flags=re.MULTILINE)[1:]
    assert len(printed) == len(blocks)
    return list(zip(blocks, printed, strict=True))


def test_every_command_of_the_tutorial_works(installed: Installation, tmp_path: Path) -> None:
    said = {
        word: output
        for block, output in read(PAGE, tmp_path)
        for word in ("get backups", "count(*) AS before", "SettingRefused", "orders-4-0", "=InUse", "get pvc")
        if word in block
    }
    assert re.search(r"orders-before-release +orders +Completed", said["get backups"])
    assert re.search(r"now *\n-+\n +0\n", said["count(*) AS before"])
    assert re.search(r"before *\n-+\n +1000\n", said["count(*) AS before"])
    assert "archive_command" in said["SettingRefused"]
    assert re.search(r"orders-4-0 +1/1 +Running +0 +\S+ +replica", said["orders-4-0"])
    assert "orders" in said["=InUse"]
    assert said["get pvc"].count(" Bound ") == 4, "three volumes of one Database and one of the other"
    assert not installed.kubectl.within(NAMESPACE).list("database")


def test_every_command_of_the_mysql_tutorial_works(installed: Installation, tmp_path: Path) -> None:
    printed = "\n".join(output for _, output in read(MYSQL_PAGE, tmp_path))
    assert re.search(r"orders-before-release +orders +Completed", printed)
    assert re.search(r"^501$", printed, re.MULTILINE), "half of the orders, and the one that came later"
    assert re.search(r"\| +1001 \| +1 \|", printed), "all of them, and the one that came later"
    assert not installed.kubectl.within(NAMESPACE).list("database")
