"""How the stored segments of a log hang together: on one line, and from a line to the one that took over. Pure.

Repository and domain both draw conclusions from names of segments; this is the one place where they are drawn. Nothing here
assumes that names follow from each other: what comes next is asked of the engine (`LogSource.successor`), and may be only
the beginning of a name. Guarantees: a stretch is called whole only if each of its names was listed; a line takes over only
from a place that is proven to be stored. Costs are those of one pass over the names of a line.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from yoban.errors import InvalidInput
from yoban.plugins.log import LogSource
from yoban.plugins.positions import Fork, Position, Positions

LONGEST = 1_000_000
"""Segments that are counted one by one at most."""


@dataclass(frozen=True, slots=True)
class StoredLine:
    """What is stored of one line.

    Attributes:
        line: its name.
        runs: first and last name of each stretch of whole segments without a gap, in log order.
        tails: bytes from the start of a segment that its chunks hold without a gap, by segment name.
        names: all segments of which anything is stored, in log order; may be left out where names follow from each other.
    """

    line: str
    runs: tuple[tuple[str, str], ...] = ()
    tails: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def whole(self, segment: str) -> bool:
        """Tell whether the whole segment is stored."""
        return self.run(segment) is not None

    def run(self, segment: str) -> tuple[str, str] | None:
        """Return the stretch that holds `segment`; names of a line's segments sort in log order."""
        return next((run for run in self.runs if run[0] <= segment <= run[1]), None)

    def holds(self, segment: str, flushed: int = 1) -> bool:
        """Tell whether at least `flushed` bytes of `segment` are stored, whole or as chunks."""
        return self.whole(segment) or self.tails.get(segment, 0) >= flushed

    def named(self, beginning: str) -> str:
        """Return the segment of which anything is stored and whose name begins so, "" when there is none."""
        at = bisect_left(self.names, beginning)
        if at < len(self.names) and self.names[at].startswith(beginning):
            return self.names[at]
        return beginning if self.holds(beginning) else ""

    def between(self, first: str, last: str) -> tuple[str, ...]:
        """Return what is in `names` from `first` to `last`, both included."""
        return self.names[bisect_left(self.names, first) : bisect_right(self.names, last)]

    @property
    def newest(self) -> str:
        """Name of the newest segment of which anything is stored, "" when nothing is."""
        return max([last for _, last in self.runs] + [name for name, size in self.tails.items() if size], default="")


@dataclass(frozen=True, slots=True)
class Hole:
    """The first segment that is missing: on `line`, after `after` ("" when the beginning is missing).

    `missing` is its name, what the name begins with and `*`, or `*` alone when nothing is known of it.
    """

    line: str
    missing: str
    after: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """A line is stored up to `position` if `flushed` bytes of `segment` are, and all before it."""

    position: Position
    segment: str
    flushed: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Segments of one line that follow each other, from `first` to `last`."""

    line: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Way:
    """What leads from a place to the proven end of a line: stretches in replay order, and that end."""

    stretches: tuple[Stretch, ...]
    line: str
    position: Position


def runs(names: Iterable[str], successor: Callable[[str], str]) -> tuple[tuple[str, str], ...]:
    """Return the stretches without a gap among whole segments of one line.

    Args:
        names: names in log order; the same name twice counts once.
        successor: what the name after one begins with (`LogSource.successor` with the segment size bound).
    """
    found: list[tuple[str, str]] = []
    first = last = expected = ""
    for name in names:
        if name == last:
            continue
        if not last or not name.startswith(expected):
            if last:
                found.append((first, last))
            first = name
        last, expected = name, successor(name)
    return (*found, (first, last)) if last else ()


def goes_on(forks: Sequence[Fork], stored: Callable[[str], StoredLine], log: LogSource, segment_bytes: int) -> bool:
    """Tell whether the segment in which the first of `forks` lies is stored under the name of a line that took over.

    Each line has its own copy of it, with all that the lines before had written there. One that was left again within that
    segment may never have stored it: then the next line's copy is as good.

    Args:
        forks: one after the other, oldest first.
        stored: what is stored of a line.
        log, segment_bytes: of the engine.
    """
    for number, fork in enumerate(forks):
        own = log.segment_of(fork.line, fork.position, (), segment_bytes)
        if stored(fork.line).holds(own):
            return True
        last = number + 1 == len(forks)
        if last or log.segment_of(fork.line, forks[number + 1].position, (), segment_bytes) != own:
            return False
    return False


def absent(names: Sequence[str], first: str, last: str, log: LogSource, segment_bytes: int) -> tuple[str, ...]:
    """Return the segments from `first` to `last`, both included, that are not among `names`.

    Where names follow from each other these are names, else what they begin with, and `*`.

    Args:
        names: what there is, in log order.
        first, last: segments of one line; they count as absent when they are not in `names`.
        log, segment_bytes: of the engine.

    Raises:
        InvalidInput: `first` lies after `last` or on another line, or more than 1,000,000 lie between them.
    """
    if first > last or log.classify(first).line != log.classify(last).line:
        raise InvalidInput(f"{last} does not lie after {first}", object="segments of the log")
    missing: list[str] = []
    at = bisect_left(names, first)
    wanted = first
    for _ in range(LONGEST):
        if at < len(names) and names[at].startswith(wanted):
            wanted, at = names[at], at + 1
        else:
            missing.append(_told(last if last.startswith(wanted) else wanted, log))
        if wanted >= last or last.startswith(wanted):
            return tuple(missing)
        wanted = log.successor(wanted, segment_bytes)
        while at < len(names) and names[at] < wanted:
            at += 1
    raise InvalidInput(f"more than {LONGEST} segments lie between {first} and {last}", object="segments of the log")


def first_missing(
    stored: StoredLine, current: str, log: LogSource, segment_bytes: int, *, before: str = "", through: str = ""
) -> Hole | None:
    """Return the first missing whole segment from `current` to the one before `before` (or through `through`)."""
    if current >= before and not through:
        return None
    run = stored.run(current)
    if run is None:
        return Hole(stored.line, current)
    if through and run[1] >= through:
        return None
    follower = log.successor(run[1], segment_bytes)
    if not through and (run[1] >= before or follower >= before or before.startswith(follower)):
        return None
    return Hole(stored.line, _told(follower, log), run[1])


def follow(
    line: str,
    position: Position,
    forks: Sequence[Fork],
    lines: Callable[[str], StoredLine],
    proofs: Callable[[str], Proof | None],
    log: LogSource,
    positions: Positions,
    segment_bytes: int,
) -> Way | Hole:
    """Find what leads from a place to the proven end of the last line, where lines overlap.

    A line whose own segments reach back to a place that is proven needs nothing of its parent from there on, nor of those
    between. Else the parent's log is needed up to its last proof, or up to the fork, whichever comes first.

    Args:
        line, position: where to begin: everything up to there is in hand.
        forks: those that lie behind, oldest first; the first one leaves `line`.
        lines: what is stored of a line.
        proofs: the newest proof on a line.
        log, positions, segment_bytes: of the engine.
    """
    stretches: list[Stretch] = []
    current = log.segment_of(line, position, lines(line).names, segment_bytes)
    behind = list(forks)
    while behind:
        fork = behind[0]
        taken = _taken_over(position, behind, lines, log, segment_bytes)
        if taken is None:
            proof = proofs(line)
            if proof is None:
                return _beginning(position, fork.line, lines, log, segment_bytes)
            to = fork.position if positions.covers(proof.position, fork.position, forks) else proof.position
            last = _through(lines(line), current, position, to, proof, log, positions, segment_bytes)
            if isinstance(last, Hole):
                return last
            if last:
                stretches.append(Stretch(line, current, last))
                position = to
            taken = _taken_over(position, behind, lines, log, segment_bytes)
            if taken is None:
                return _beginning(position, fork.line, lines, log, segment_bytes)
        place, current = taken
        line = behind[place].line
        behind = behind[place + 1 :]
    proof = proofs(line)
    if proof is not None:
        last = _through(lines(line), current, position, proof.position, proof, log, positions, segment_bytes)
        if isinstance(last, Hole):
            return last
        if last:
            stretches.append(Stretch(line, current, last))
            position = proof.position
    return Way(tuple(stretches), line, position)


def _taken_over(
    position: Position,
    forks: Sequence[Fork],
    lines: Callable[[str], StoredLine],
    log: LogSource,
    segment_bytes: int,
) -> tuple[int, str] | None:
    """Return which of `forks` leads to the first line that goes on from `position`, and with which segment; None: no line.

    A line of which nothing is stored from there on is passed over: who took over from it had applied all of it before.
    """
    for place, fork in enumerate(forks):
        child = lines(fork.line)
        first = log.segment_of(fork.line, position, child.names, segment_bytes)
        if first and child.holds(first):
            return place, first
    return None


def _beginning(
    position: Position, line: str, lines: Callable[[str], StoredLine], log: LogSource, segment_bytes: int
) -> Hole:
    """The hole where a line does not go on from `position`."""
    return Hole(line, log.segment_of(line, position, lines(line).names, segment_bytes) or "*")


def _through(
    stored: StoredLine,
    current: str,
    have: Position,
    to: Position,
    proof: Proof,
    log: LogSource,
    positions: Positions,
    segment_bytes: int,
) -> str | Hole:
    """Return the last segment needed to get from `have` to `to`, "" when none is, or the first that is missing."""
    if positions.covers(have, to):
        return ""
    names = sorted({*stored.names, proof.segment}) if proof.segment else list(stored.names)
    last = log.segment_of(stored.line, to, names, segment_bytes)
    if not current or not last:
        return Hole(stored.line, "*")
    if hole := first_missing(stored, current, log, segment_bytes, before=last):
        return hole
    if not stored.holds(last, max(1, proof.flushed) if last == proof.segment else 1):
        return Hole(stored.line, last)
    if last == proof.segment:
        return last
    # The place lies in `last` only if the next segment is known: else what holds it may be what is missing.
    at = bisect_right(names, last)
    follower = log.successor(last, segment_bytes)
    if at == len(names) or not names[at].startswith(follower) or not stored.whole(last):
        return Hole(stored.line, _told(follower, log), last)
    return last


def _told(name: str, log: LogSource) -> str:
    """A name as it is; what names begin with gets a `*`."""
    try:
        log.classify(name)
    except InvalidInput:
        return f"{name}*"
    return name
