"""Settings of a running server: which are not as wanted, and how they are set without a restart.

Guarantees that values are quoted by the driver, and that a group of changes happens whole or not at all. Whether a variable
can be set while the server runs is the server's to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from yoban_mysql.session import Refused, Session
from yoban_mysql.settings import number, truth, variable

READ_ONLY = 1238
UNKNOWN = 1193
WRONG_TYPE = 1232

_NAMES = (
    "SELECT variable_name AS name, variable_value AS value FROM performance_schema.global_variables"
    " WHERE variable_name IN"
)


@dataclass(slots=True)
class Applied:
    """What came of a group: names that were set, that wait for a restart, and that were rejected (then nothing is set)."""

    changed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)


def same(running: str, wanted: str) -> bool:
    """Whether a running value is what an option file's value means."""
    if running.lower() == wanted.strip().lower():
        return True
    one, other = number(running), number(wanted)
    if one is not None and other is not None:
        return one == other
    switch = truth(running)
    if switch is not None and switch == truth(wanted):
        return True
    try:
        return float(running) == float(wanted)
    except ValueError:
        return False


async def values(session: Session, names: Iterable[str]) -> dict[str, str]:
    """Return the running values of those variables that the server has, by name."""
    wanted = [variable(name) for name in names]
    if not wanted:
        return {}
    rows = await session.rows(f"{_NAMES} ({', '.join(['%s'] * len(wanted))})", *wanted)
    return {str(row["name"]): str(row["value"]) for row in rows}


async def assign(session: Session, name: str, value: str) -> None:
    """Set a variable for the whole server. Raises `Refused` in the server's words."""
    whole = number(value)
    statement = f"SET GLOBAL `{variable(name)}` = %s"
    if whole is None:
        try:
            await session.execute(statement, float(value))
            return
        except ValueError:
            pass
        except Refused as error:
            if error.number != WRONG_TYPE:
                raise
        await session.execute(statement, value)
        return
    try:
        await session.execute(statement, whole)
    except Refused as error:
        if error.number != WRONG_TYPE:
            raise
        await session.execute(statement, value)


async def reset(session: Session, name: str) -> None:
    """Give a variable the value that the server has built in. Raises `Refused`."""
    await session.execute(f"SET GLOBAL `{variable(name)}` = DEFAULT")


async def apply(session: Session, wanted: Mapping[str, str], gone: Iterable[str] = ()) -> Applied:
    """Set variables; when one is rejected, those set before get their values back.

    Args:
        session: a connection that may set them.
        wanted: values by name.
        gone: names that go back to the server's own value.
    """
    done = Applied()
    before = await values(session, [*wanted, *gone])
    steps: list[tuple[str, str | None]] = [*wanted.items(), *((name, None) for name in gone)]
    for name, value in steps:
        running = before.get(variable(name))
        if running is not None and value is not None and same(running, value):
            done.changed.append(name)
            continue
        try:
            await (assign(session, name, value) if value is not None else reset(session, name))
            done.changed.append(name)
        except Refused as error:
            if error.number in (READ_ONLY, UNKNOWN):  # what only options know takes a restart, too
                done.waiting.append(name)
                continue
            done.rejected[name] = error.words
            break
    if done.rejected:
        for name in done.changed:
            if (old := before.get(variable(name))) is not None:
                await assign(session, name, old)
        done.changed, done.waiting = [], []
    return done
