"""Where the server's programs are in an image.

Guarantees an absolute path: the agent's PATH knows nothing of the folders that distributions use. The version asked for is
looked for first; another one that is there is found too, so that a wrong image can be named.
"""

from __future__ import annotations

from pathlib import Path

from yoban.errors import NotFound
from yoban.plugins import InstanceContext

VERSIONED = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/postgresql/{}/bin")
PLAIN = ("/usr/local/bin", "/usr/bin", "/opt/bitnami/postgresql/bin")
LIBRARIES = ("../lib", "../lib/postgresql", "../lib64")


def folder(version: str) -> Path:
    """Return the folder of the server's programs.

    Raises:
        NotFound: the image has none.
    """
    places = [Path(pattern.format(version)) for pattern in VERSIONED] + [Path(place) for place in PLAIN]
    for pattern in VERSIONED:
        head, tail = pattern.split("{}")
        found = (path for path in Path("/").glob(f"{head}*{tail}".lstrip("/")))
        places += sorted(found, reverse=True)
    for place in places:
        if (place / "postgres").is_file():
            return place
    raise NotFound(
        "the image has no PostgreSQL server",
        object=f"PostgreSQL {version}",
        cause="no program `postgres` in any known place",
        fix="choose an image of PostgreSQL",
        reason="WrongImage",
    )


def program(ctx: InstanceContext, name: str) -> str:
    """Return the path of a program of the image."""
    return str(folder(ctx.version) / name)


def has_library(version: str, name: str) -> bool:
    """Tell whether a library that can be preloaded is there; True when its folder is not known."""
    places = [folder(version) / part for part in LIBRARIES]
    known = [place for place in places if (place / "plpgsql.so").is_file()]
    return not known or any((place / f"{name}.so").is_file() for place in known)
