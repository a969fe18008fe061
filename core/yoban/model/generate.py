"""Writes what is generated from the models: `python -m yoban.model.generate` in the root of the repository."""

from __future__ import annotations

import sys
from pathlib import Path

from yoban.model import crds, reference

DEFINITIONS = ("deploy/crds", "deploy/chart/files/crds")
"""Folders of the definitions: for `kubectl apply`, and in the chart, which can read only what is inside it."""


def files() -> dict[str, str]:
    """Return the text of each generated file by its path in the repository."""
    found = {f"{folder}/{name}": text for folder in DEFINITIONS for name, text in crds.render().items()}
    return found | {"docs/reference/fields.md": reference.render()}


def main(root: Path) -> list[str]:
    """Write what differs and return the paths written; an old definition of a kind that is gone is removed."""
    wanted = files()
    changed = []
    for path, text in wanted.items():
        target = root / path
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            changed.append(path)
    for folder in DEFINITIONS:
        for old in (root / folder).glob("yoban.dev_*.yaml"):
            if f"{folder}/{old.name}" not in wanted:
                old.unlink()
                changed.append(f"{folder}/{old.name}")
    return changed


if __name__ == "__main__":
    for written in main(Path.cwd()):
        sys.stdout.write(f"{written}\n")
