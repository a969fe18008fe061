"""Lengths of time as people write them in a resource: `5s`, `90m`, `24h`, `14d`, `1h30m`.

One reading for all resources. A day is 24 hours; there are no months.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

PATTERN = r"^([0-9]{1,5}d|[0-9]{1,6}h|[0-9]{1,8}m|[0-9]{1,9}(s|ms))+$"
"""What the API server accepts. It cannot add, so what is longer than 100 years in all is refused by `parse_duration`."""
_PART = re.compile(r"([0-9]{1,9})(ms|[dhms])")
_UNITS = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def parse_duration(value: Any) -> timedelta:
    """Return the time that `value` names; a timedelta is returned as it is.

    Raises:
        ValueError: not of the form `1h30m`, or longer than 100 years.
    """
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str) or re.fullmatch(PATTERN, value) is None:
        raise ValueError("a duration is written like 30s, 90m, 24h, 14d or 1h30m")
    days = sum(int(count) * (_UNITS[unit] / timedelta(days=1)) for count, unit in _PART.findall(value))
    if days > 36500:
        raise ValueError("a duration is at most 100 years")
    return timedelta(days=days)


def format_duration(value: timedelta) -> str:
    """Return the shortest text that `parse_duration` reads back, to the millisecond: `1d`, `1h30m`, `0s`."""
    rest = round(value / timedelta(milliseconds=1))
    text = ""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, length)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": PATTERN, "maxLength": 32}),
]
