"""The distributions as they are shipped: wheels, built from the tree, and each engine without the other's.

Dependencies are those of the test's own environment; of ours there is what is under test and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DISTRIBUTIONS = {
    "core": "yoban",
    "plugins/postgres": "yoban_postgres",
    "plugins/mysql": "yoban_mysql",
    "plugins/s3": "yoban_s3",
}
DRIVERS = {"postgres": "asyncpg", "mysql": "asyncmy"}

REPORT = """
import importlib, json, pkgutil, sys
from yoban.plugins.registry import Registry

registry = Registry.from_environment()
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
print(json.dumps({"engines": sorted(registry.engines), "stores": sorted(registry.store_providers)}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four, built as `make build` does."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in DISTRIBUTIONS:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
            cwd=ROOT / source, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    return folder


def environment(folder: Path, wheels: Path, packages: list[str], without: str) -> Path:
    """A folder of packages: our named ones from their wheels, and what else this environment has, but one driver."""
    site = folder / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(("yoban", "_yoban", "__editable__", without)):
            (site / entry.name).symlink_to(entry)
    for package in packages:
        (wheel,) = wheels.glob(f"{package}-*.whl")
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True, timeout=60)
    return site


@pytest.mark.parametrize(("engine", "other"), [("mysql", "postgres"), ("postgres", "mysql")])
def test_one_engine_works_without_the_other_installed(wheels: Path, tmp_path: Path, engine: str, other: str) -> None:
    site = environment(tmp_path, wheels, ["yoban", f"yoban_{engine}", "yoban_s3"], without=DRIVERS[other])
    assert not list(site.glob(f"yoban_{other}*"))
    # Isolated and without site: nothing of the tree, nor of the editable installation, can be imported.
    start = f"import sys; sys.path.append({str(site)!r}); exec(sys.stdin.read())"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, "yoban.plugins", f"yoban_{engine}", "yoban_s3"],
        input=REPORT, env={"PATH": os.environ["PATH"], "YOBAN_PLUGINS": f"{engine},s3"},
        capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"engines": [engine], "stores": ["s3"]}
