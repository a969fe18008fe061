"""The samples that README shows are accepted by a real API server, and its commands are ones that exist."""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from deploy.lab.apiserver import LocalApiServer

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "deploy" / "samples").glob("*.yaml"))


def shown(page: str) -> Iterator[list[str]]:
    """Commands of a page, split as a shell does."""
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


@pytest.mark.server
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_is_accepted(local_apiserver: LocalApiServer, sample: Path) -> None:
    local_apiserver.kubectl("apply", "-f", str(ROOT / "deploy" / "crds"))
    local_apiserver.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    namespace = f"samples-{uuid.uuid4().hex[:8]}"
    local_apiserver.kubectl("create", "namespace", namespace)
    local_apiserver.kubectl("apply", "-n", namespace, "-f", str(sample))
    for one in yaml.safe_load_all(sample.read_text()):
        local_apiserver.kubectl("get", one["kind"].lower(), one["metadata"]["name"], "-n", namespace)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_names_what_is_there(sample: Path) -> None:
    """Engines and providers of samples are those of our plugins."""
    from yoban.plugins.registry import Registry

    registry = Registry.load()
    for one in yaml.safe_load_all(sample.read_text()):
        if one["kind"] == "Database":
            versions = [version.name for version in registry.engine(one["spec"]["engine"]).versions()]
            assert one["spec"]["version"] in versions
        if one["kind"] == "ObjectStore":
            provider = registry.store_provider(one["spec"]["provider"])
            for secret in yaml.safe_load_all(sample.read_text()):
                assert secret["kind"] != "Secret" or set(provider.secret_keys) <= set(secret["stringData"])


@pytest.mark.parametrize("page", ["README.md", "docs/write-a-plugin.md", "CONTRIBUTING.md"])
def test_files_in_commands_exist(page: str) -> None:
    files = [word for words in shown(page) for word in words if word.startswith("deploy/")]
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_readme_applies_samples() -> None:
    applied = {words[words.index("-f") + 1] for words in shown("README.md") if words[:2] == ["kubectl", "apply"]}
    assert applied
    assert applied <= {path.relative_to(ROOT).as_posix() for path in SAMPLES}


@pytest.mark.parametrize("page", ["README.md", "docs/write-a-plugin.md"])
def test_values_that_are_set_are_values_of_the_chart(page: str) -> None:
    schema = yaml.safe_load((ROOT / "deploy/chart/values.schema.json").read_text())
    for words in shown(page):
        for number, word in enumerate(words):
            if word == "--set":
                assert words[number + 1].split("=")[0].split(".")[0] in schema["properties"]


@pytest.mark.parametrize("page", ["docs/write-a-plugin.md"])
def test_python_on_a_page_compiles_and_imports_what_exists(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, page, "exec")
        for module, names in re.findall(r"^from (yoban\.[\w.]+) import (.+)$", block, re.MULTILINE):
            imported = __import__(module, fromlist=["x"])
            for name in names.split(","):
                assert hasattr(imported, name.strip()), f"{module}.{name}"
