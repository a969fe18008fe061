"""Checks settings against the server program's own catalogue, before they are written.

Guarantees that a setting which the installed server would not start or reload with is named, in the server's own words:
the program parses a candidate file as it would the real one (`postgres -C`), whether a server runs or not. What only shows
when memory is claimed or libraries are loaded is not found; `settings.contradictions` covers the known cases.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from yoban.errors import Unavailable
from yoban.plugins import InstanceContext
from yoban.plugins.files import make_folder, remove_file, replace_file

from yoban_postgres.binaries import has_library, program
from yoban_postgres.configuration import quote
from yoban_postgres.settings import libraries

CANDIDATE = "yoban-candidate.conf"
DEADLINE = 20.0
_ROUNDS = 8

_LEVEL = re.compile(r"(?:^|\s)(LOG|ERROR|FATAL|HINT|DETAIL|WARNING):  (.*)")
_PARAMETER = re.compile(r'parameter "([^"]+)"')
_LINE = re.compile(r'in file "[^"]*" line (\d+)')


def complaints(output: str, names: list[str]) -> dict[str, str]:
    """Return what the server says of each setting.

    Args:
        output: its standard error.
        names: setting in each line of the file, from line 1.
    """
    found: dict[str, str] = {}
    lower = {name.lower(): name for name in names if name}
    last = ""
    for line in output.splitlines():
        match = _LEVEL.search(line)
        if match is None:
            continue
        level, words = match.groups()
        if level in ("HINT", "DETAIL"):
            if last:
                found[last] += f" ({words})"
            continue
        last = ""
        place = _LINE.search(words)
        parameter = _PARAMETER.search(words)
        if parameter is not None and parameter[1].lower() in lower:
            last = lower[parameter[1].lower()]
        elif place is not None and 0 < int(place[1]) <= len(names) and names[int(place[1]) - 1]:
            last = names[int(place[1]) - 1]
        if last:
            found[last] = re.sub(r' in file "[^"]*" line \d+', "", words)
    return found


async def rejected(ctx: InstanceContext, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the server program rejects, and why.

    Raises:
        Unavailable: the program failed in a way that names no setting.
    """
    bad: dict[str, str] = {}
    for name, value in settings.items():
        if name.lower() == "shared_preload_libraries":
            missing = [item for item in libraries(value) if not has_library(ctx.version, item)]
            if missing:
                bad[name] = f"the image has no library {', '.join(missing)}"
    candidate = ctx.tmp / CANDIDATE
    await asyncio.to_thread(make_folder, ctx.tmp)
    try:
        for _ in range(_ROUNDS):
            rest = sorted(name for name in settings if name not in bad)
            text = "".join(f"{name} = {quote(settings[name])}\n" for name in rest)
            await asyncio.to_thread(replace_file, candidate, text)
            done = await ctx.processes.run(
                [program(ctx, "postgres"), "-C", "data_directory", "-D", str(ctx.data), f"--config-file={candidate}"],
                deadline=DEADLINE,
                env={"LC_ALL": "C", "LANG": "C"},
            )
            if done.code == 0:
                return bad
            words = done.stderr.decode(errors="replace")
            more = complaints(words, rest)
            if not more:
                break
            bad |= more
    finally:
        await asyncio.to_thread(remove_file, candidate)
    raise Unavailable(
        "the server program cannot check the settings",
        object=ctx.name,
        cause=words.strip()[-500:],
        fix="see that the image's server runs",
    )
