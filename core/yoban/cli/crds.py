"""`yoban crds`: the custom resource definitions of this release, generated from the models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yoban.errors import InvalidInput


def main(arguments: Sequence[str]) -> int:
    """Print all definitions as one YAML stream; `--write` puts a file each into a folder, `--check` compares with it.

    Raises:
        InvalidInput: with `--check`, a file is missing or differs.
    """
    from yoban.model.crds import render

    parser = argparse.ArgumentParser(prog="yoban crds", description="Print the custom resource definitions.")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--write", metavar="FOLDER", type=Path, help="write them into this folder, a file each")
    where.add_argument("--check", metavar="FOLDER", type=Path, help="fail unless the folder holds exactly them")
    options = parser.parse_args(arguments)
    files = render()
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (options.write / name).write_text(text, encoding="utf-8")
    elif options.check:
        for name, text in files.items():
            path = options.check / name
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                raise InvalidInput("is not what the models say", object=str(path), fix="run `make crds`")
    else:
        sys.stdout.write("---\n".join(files.values()))
    return 0
