"""Rendering the chart with the helm that the lab builds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.lab import binaries
from deploy.lab.failure import LabUnavailable

CHART = Path(__file__).parents[3] / "deploy" / "chart"

Render = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run helm with arguments, values as JSON on its standard input when given."""
    try:
        program = str(binaries.path("helm"))
    except LabUnavailable as error:
        pytest.skip(str(error))

    def run(*arguments: str, values: Any = None) -> subprocess.CompletedProcess[str]:
        with_values = ["--values", "-"] if values is not None else []
        return subprocess.run(
            [program, *arguments, *with_values],
            input=json.dumps(values) if values is not None else None,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """Render the chart with values; returns the objects."""

    def render(
        values: Any = None, *, release: str = "yoban", kube_version: str = "1.35.0", **more: Any
    ) -> list[dict[str, Any]]:
        arguments = ["template", release, str(CHART), "--namespace", "yoban-system", "--kube-version", kube_version]
        done = helm(*arguments, values={**(values or {}), **more})
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.safe_load_all(done.stdout) if one]

    return render
