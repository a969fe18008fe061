"""The definitions on a real API server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml


@pytest.fixture(scope="session")
def api(local_apiserver: Any) -> Any:
    local_apiserver.kubectl("apply", "-f", "deploy/crds")
    plurals = ("databases", "objectstores", "backuppolicies", "backups")
    names = [f"crd/{plural}.yoban.dev" for plural in plurals]
    local_apiserver.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    return local_apiserver


Apply = Callable[..., str]


@pytest.fixture
def apply(api: Any) -> Apply:
    """Apply an object; "" when it was accepted, else what the server says."""

    def call(obj: dict[str, Any], *arguments: str) -> str:
        from deploy.lab.failure import LabError

        try:
            api.kubectl("apply", *arguments, "-f", "-", stdin=yaml.safe_dump(obj))
        except LabError as error:
            return str(error)
        return ""

    return call
