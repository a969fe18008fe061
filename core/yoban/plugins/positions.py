"""Places in an engine's log, and how two of them relate.

Core carries positions as text and never looks inside. An engine gives them one canonical form, so that equal places
have equal texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NewType

Position = NewType("Position", str)
"""Canonical text of a place in a log, made by `Positions.parse`. At most 64 KiB (a set-like position can be long)."""


class Order(Enum):
    """How position a relates to position b."""

    LESS = "less"
    EQUAL = "equal"
    GREATER = "greater"
    INCOMPARABLE = "incomparable"
    """Each has something that the other lacks, or they lie on lines whose relation is not known."""


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a line of the log left the line before it.

    Attributes:
        line: name of the new line (the engine's text; an engine without lines uses the term's number).
        parent: name of the line that it left.
        position: last place that both share.
    """

    line: str
    parent: str
    position: Position


class Positions(ABC):
    """Facet, pure: text and order of positions. No method does I/O; all may be called anywhere, any number of times."""

    @abstractmethod
    def parse(self, text: str) -> Position:
        """Return the canonical form of `text`.

        Raises:
            InvalidInput: `text` is no position of this engine; the message shows the expected form.
        """

    @abstractmethod
    def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
        """Tell how `a` relates to `b`, given the forks known. Never raises for canonical positions.

        Law (held by `EngineContract`): reflexive, antisymmetric, and LESS is transitive.
        """

    def covers(self, have: Position, want: Position, forks: Sequence[Fork] = ()) -> bool:
        """Tell whether a copy at `have` holds everything up to `want`. True for EQUAL and GREATER."""
        return self.compare(have, want, forks) in (Order.EQUAL, Order.GREATER)
