"""Checks settings against the server program itself, before they are written.

Guarantees that a setting which the installed server would not start with, or would bend to another value, is named in the
server's own words: the program reads a candidate file as it would the real one (`mysqld --validate-config`), whether a
server runs or not. What only shows when memory is claimed is not found.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from yoban.errors import Unavailable
from yoban.plugins import InstanceContext
from yoban.plugins.files import make_folder, remove_file, replace_file

from yoban_mysql import binaries
from yoban_mysql.configuration import plugins
from yoban_mysql.options import text
from yoban_mysql.settings import variable

CANDIDATE = "yoban-candidate.cnf"
DEADLINE = 30.0
_ROUNDS = 12

_LINE = re.compile(r"\[(Warning|ERROR)\] \[MY-\d+\] \[[^]]*\] (.*)")
_QUOTED = re.compile(r"'-{0,2}([A-Za-z][A-Za-z0-9_.-]*)(?:=[^']*)?'")
_BENT = re.compile(r"adjusted to|truncated|not recognized|unknown (variable|option)", re.IGNORECASE)
_UNKNOWN = re.compile(r"unknown (variable|option)|ambiguous option", re.IGNORECASE)
_PROGRAM = re.compile(r"^\S*mysqld: ")


def complaints(output: str, names: Mapping[str, str]) -> dict[str, str]:
    """Return what the server says of each setting; of those it does not know only where nothing else is wrong.

    A plugin whose options cannot be read makes all of its options unknown.

    Args:
        output: what it wrote.
        names: settings as the user wrote them, by the server's name of the variable.
    """
    wrong: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for line in output.splitlines():
        match = _LINE.search(line)
        if match is None:
            continue
        level, words = match[1], _PROGRAM.sub("", match[2])
        if level == "Warning" and not _BENT.search(words):
            continue
        # Of the words in quotes the last one that is a setting: values come before.
        keys = [variable(word) for word in _QUOTED.findall(words)]
        key = next((key for key in reversed(keys) if key in names), "")
        if key:
            (unknown if _UNKNOWN.search(words) else wrong).setdefault(names[key], words)
    return wrong or unknown


async def rejected(ctx: InstanceContext, settings: Mapping[str, str], fixed: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the server program rejects, and why.

    Args:
        ctx: the instance.
        settings: what to check.
        fixed: what we set beside it.

    Raises:
        Unavailable: the program failed in a way that names no setting.
    """
    bad: dict[str, str] = {}
    candidate = ctx.tmp / CANDIDATE
    await asyncio.to_thread(make_folder, ctx.tmp)
    # It warns of each bent value only where warnings are shown.
    shown = {**fixed, "log_error_verbosity": "2", "tmpdir": str(ctx.tmp)}
    words = ""
    try:
        for _ in range(_ROUNDS):
            rest = {name: value for name, value in settings.items() if name not in bad}
            options = {name: value for name, value in rest.items() if variable(name) not in shown} | shown
            await asyncio.to_thread(replace_file, candidate, text(options, plugins()))
            done = await ctx.processes.run(
                [binaries.server(), f"--defaults-file={candidate}", "--validate-config"], deadline=DEADLINE
            )
            words = (done.stderr + b"\n" + done.stdout).decode(errors="replace")
            more = complaints(words, {variable(name): name for name in rest})
            if not more and done.code == 0:
                return bad
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
