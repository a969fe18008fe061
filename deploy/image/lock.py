"""`python -m deploy.image.lock`: select from the workspace's lock what the image installs.

Guarantees that the image's locks hold exactly the closure of the four distributions (`requirements.lock`) and of the
build backend (`requirements-build.lock`), with the workspace's versions and hashes. Reads the environment it runs in
for the closure, so that environment must be the workspace's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).parent
WORKSPACE_LOCK = FOLDER.parents[1] / "requirements.lock"
OURS = ("yoban", "yoban-postgres", "yoban-mysql", "yoban-s3")
BACKEND = ("hatchling",)


def closure(names: Iterable[str]) -> set[str]:
    """Normalized names of these distributions and all that they need here, extras included."""
    seen: dict[str, set[str]] = {}

    def visit(name: str, extras: set[str]) -> None:
        key = normalized(name)
        if key in seen and extras <= seen[key]:
            return
        seen[key] = seen.get(key, set()) | extras
        for text in metadata.distribution(name).requires or []:
            wanted = Requirement(text)
            marker = wanted.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *seen[key])):
                visit(wanted.name, set(wanted.extras))

    for name in names:
        # Where OTLP goes is set at run time, so the image has what sends it.
        visit(name, {"otlp"} if name == "yoban" else set())
    return set(seen)


def normalized(name: str) -> str:
    """A distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def selected(lock: str, names: set[str]) -> str:
    """The blocks of a pip lock whose distribution is in `names`; raises `LookupError` when one has no block."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", lock)
    by_name: dict[str, str] = {}
    for block in blocks:
        # One distribution can have several: a version for each range of Python versions.
        if "==" in block.split("\n")[0]:
            name = normalized(re.split(r"[=\[ ;]", block)[0])
            by_name[name] = by_name.get(name, "") + block
    missing = names - set(by_name)
    if missing:
        raise LookupError(f"the workspace's lock lacks {sorted(missing)}")
    return "".join(by_name[name] for name in sorted(names))


def locks() -> dict[Path, str]:
    """Both files and what belongs into them."""
    workspace = WORKSPACE_LOCK.read_text()
    ours = {normalized(name) for name in OURS}
    return {
        FOLDER / "requirements.lock": selected(workspace, closure(OURS) - ours),
        FOLDER / "requirements-build.lock": selected(workspace, closure(BACKEND)),
    }


if __name__ == "__main__":
    for file, text in locks().items():
        file.write_text(text)
        sys.stderr.write(f"{file.name}: {text.count('==')} distributions\n")
