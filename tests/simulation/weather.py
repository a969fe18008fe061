"""How bad the network of one seed is: which faults it knows, and how often.

Each seed draws some faults and leaves others out (swarm testing): a run with all of them at once never gets far enough to
reach the states that only one of them leads to.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random

RATES = (0.01, 0.03, 0.1, 0.25)


@dataclass(frozen=True, slots=True)
class Weather:
    """Chances of each fault: of requests and answers by call, of streams by piece.

    Attributes:
        lost: the request never arrives.
        unanswered: it is carried out and the answer is lost.
        reset: it is carried out and the connection breaks.
        slow: request or answer takes up to `SLOW` seconds.
        repeated: something on the way sends it twice; either answer comes back.
        truncated: the answer is cut off.
        busy: 429, with or without Retry-After.
        failed: 500 or 503, nothing was done.
        failed_after: 500, and it was done.
        conflict: 409 to a write, nothing was done.
        page: 502 with a page of HTML.
        behind: 504 to a list with a version, "Too large resource version".
        expired: 410 to a list with a version, or to a watch.
        stream_repeated: an event comes twice.
        stream_slow: a piece, and all after it, comes late.
        stream_broken: the connection breaks, maybe within a line.
        stream_ended: the stream ends in order, maybe within a line.
        stream_silent: nothing comes any more.
        stream_page: a line of HTML.
    """

    lost: float = 0.0
    unanswered: float = 0.0
    reset: float = 0.0
    slow: float = 0.0
    repeated: float = 0.0
    truncated: float = 0.0
    busy: float = 0.0
    failed: float = 0.0
    failed_after: float = 0.0
    conflict: float = 0.0
    page: float = 0.0
    behind: float = 0.0
    expired: float = 0.0
    stream_repeated: float = 0.0
    stream_slow: float = 0.0
    stream_broken: float = 0.0
    stream_ended: float = 0.0
    stream_silent: float = 0.0
    stream_page: float = 0.0


CALM = Weather()


def draw(random: Random) -> Weather:
    """The weather of a seed."""
    return Weather(**{f.name: random.choice(RATES) if random.random() < 0.4 else 0.0 for f in fields(Weather)})
