"""Option files of the server: how values are written, and read back. Pure.

Guarantees that what `text` writes the server reads as it was given (MySQL reference manual, "Using Option Files"), and
that `parse` gives back what `text` was given. Only for files of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

HEADER = "# Written by the agent; changes are overwritten. Settings belong to the Database.\n"
GROUP = "[mysqld]\n"


def quote(value: str) -> str:
    """Return a value as an option file wants it."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def text(options: Mapping[str, str], repeated: Iterable[tuple[str, str]] = ()) -> str:
    """Return a file.

    Args:
        options: values by name; sorted, so that equal options have equal texts.
        repeated: options that are given several times, in order; they come first.
    """
    lines = [f"{name}={quote(value)}\n" for name, value in [*repeated, *sorted(options.items())]]
    return HEADER + GROUP + "".join(lines)


def parse(content: str) -> dict[str, str]:
    """Return the options of a file that `text` wrote; of a repeated one the last."""
    found: dict[str, str] = {}
    for line in content.split("\n"):  # `splitlines` also splits where the server does not
        name, equals, value = line.partition("=")
        if equals and value.startswith('"') and not line.startswith("#"):
            found[name] = _unquote(value[1:-1])
    return found


def _unquote(value: str) -> str:
    parts = iter(value)
    return "".join(next(parts, "") if one == "\\" else one for one in parts)
