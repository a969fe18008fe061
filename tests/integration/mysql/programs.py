"""MySQL's programs of the lab's image, so that they run on this machine.

What they need of the image is copied to where an unprivileged user can read it; each program is a script that starts the
real one through the image's own loader, with the image's own libraries.
"""

from __future__ import annotations

import shutil
from pathlib import Path

PROGRAMS = {"mysqld": "sbin", "mysql": "bin", "mysqlbinlog": "bin", "mysqldump": "bin"}
_ARGUMENTS = {
    "mysqld": (
        "--basedir={usr}",
        "--lc-messages-dir={usr}/share/mysql",
        "--plugin-dir={usr}/lib/mysql/plugin",
        "--character-sets-dir={usr}/share/mysql/charsets",
    ),
    "mysql": ("--character-sets-dir={usr}/share/mysql/charsets",),
}


def install(unpacked: Path, folder: Path) -> Path:
    """Copy what is needed from a folder with the image's `usr`; return the folder with the programs."""
    usr = folder / "usr"
    library = next((unpacked / "usr" / "lib").glob("*-linux-gnu*"))
    for part in (library.relative_to(unpacked), Path("usr/lib/mysql"), Path("usr/share/mysql")):
        shutil.copytree(unpacked / part, folder / part, symlinks=True)
    loader = next((folder / "usr" / "lib" / library.name).glob("ld-linux*"))
    path = f"{loader.parent}:{usr / 'lib' / 'mysql' / 'private'}"
    programs = folder / "programs"
    programs.mkdir()
    for name, place in PROGRAMS.items():
        real = usr / place / name
        real.parent.mkdir(exist_ok=True)
        shutil.copy2(unpacked / "usr" / place / name, real)
        # The first argument may have to be --defaults-file, so ours come last.
        extra = " ".join(word.format(usr=usr) for word in _ARGUMENTS.get(name, ()))
        script = programs / name
        script.write_text(f'#!/bin/sh\nexec {loader} --library-path {path} {real} "$@" {extra}\n')
        script.chmod(0o755)
    return programs
