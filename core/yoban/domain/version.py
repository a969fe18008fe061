"""Which version and image a Database runs, from what its owner wrote and what the plugin offers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from yoban.errors import InvalidInput
from yoban.plugins import Engine


@dataclass(frozen=True, slots=True)
class Choice:
    """A version as the engine names it, and the image that has it."""

    version: str
    image: str


def choose(engine: Engine, version: str | None, image: str | None) -> Choice:
    """Return the version and image to run.

    A version such as `17.2` is the engine's `17` when the engine has no `17.2`. Without a version it is told from the
    image's tag.

    Raises:
        InvalidInput: the engine has no such version (`VersionUnsupported`), or the tag does not tell
            (`VersionUnknown`); both name the versions there are.
    """
    offered = {item.name: item.image for item in engine.versions()}
    names = ", ".join(offered)
    if version:
        if found := _match(version, offered):
            return Choice(found, image or offered[found])
        raise InvalidInput(
            f"the engine has no version {version}",
            object=f"engine {engine.name}",
            fix=f"choose one of: {names}",
            reason="VersionUnsupported",
        )
    tag = (image or "").partition("@")[0].rpartition("/")[2].partition(":")[2]
    if image and (found := _match(tag, offered)):
        return Choice(found, image)
    raise InvalidInput(
        f"the tag of image {image} does not tell the version",
        object=f"engine {engine.name}",
        fix=f"set version to one of: {names}",
        reason="VersionUnknown",
    )


def _match(text: str, offered: dict[str, str]) -> str:
    """The longest offered version that `text` is, or is a release of: followed by nothing, `.` or `-`."""
    fitting = [name for name in offered if re.match(re.escape(name) + r"(?:$|[.\-_])", text)]
    return max(fitting, key=len, default="")
