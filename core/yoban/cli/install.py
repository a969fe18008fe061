"""`yoban install FOLDER`: copies the self-contained runtime into a volume, for the init container of every instance.

Guarantees: after success FOLDER holds what `/opt/yoban` holds in the operator image, symbolic links and permission
bits included; a second run, or one after a run that was cut short, ends in the same state. Needs no write access to
anything else. Does not remove files that are only in FOLDER: it is a fresh volume of the Pod's.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RUNTIME = "/opt/yoban"
_COPIERS = 4


def install(source: Path, target: Path) -> int:
    """Copy the tree below `source` into `target` and return the number of files copied.

    Raises OSError, with the file's name, when something cannot be read or written.
    """
    files: list[tuple[Path, Path]] = []
    for folder, folders, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in (*folders, *names):
            entry = Path(folder) / name
            if entry.is_symlink():
                _link(entry, here / name)
            elif name in names:
                files.append((entry, here / name))
    with ThreadPoolExecutor(_COPIERS) as pool:
        for _ in pool.map(lambda pair: _copy(*pair), files):
            pass
    return len(files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: one argument, the folder to fill. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("usage: yoban install FOLDER", file=sys.stderr)
        return 2
    source = Path(os.environ.get("YOBAN_RUNTIME", RUNTIME))
    target = Path(given[0])
    if not source.is_dir():
        print(f"yoban install: there is no runtime in {source}; run it from the operator image", file=sys.stderr)
        return 1
    try:
        count = install(source, target)
    except OSError as error:
        print(f"yoban install: {error}", file=sys.stderr)
        return 1
    print(f"installed {count} files in {target}")
    return 0


def _link(entry: Path, place: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(entry.readlink())


def _copy(entry: Path, place: Path) -> None:
    partial = place.with_name(place.name + ".part")
    shutil.copyfile(entry, partial)
    shutil.copymode(entry, partial)
    partial.replace(place)
