"""Which reign's record is missing from a repository: without it nobody can tell where its log left the one before.

Guarantees: pure; only what the stored facts prove to have existed is called missing: a reign that stored a mark, or a line
that another reign's record, or a base backup, tells of.
"""

from __future__ import annotations

from dataclasses import dataclass

from yoban.domain.history import History


@dataclass(frozen=True, slots=True)
class LostRecord:
    """A reign without its record.

    Attributes:
        line: that it wrote.
        proof: how it is known to have been.
        term: its number, 0 when nobody tells.
        newest: it is the last of all: its end is the end of what is stored. Otherwise a later one follows from it.
    """

    line: str
    proof: str
    term: int = 0
    newest: bool = False

    def __str__(self) -> str:
        return f"terms/{self.term}" if self.term else f"terms (the reign on line {self.line})"


def lost_record(history: History, lines: tuple[str, ...]) -> LostRecord | None:
    """Return the newest reign whose record is missing, None when none is.

    Args:
        history: what is stored.
        lines: the chain of the newest term that has a record, oldest first (`yoban.domain.lineage.chain`).
    """
    known = max((term.number for term in history.terms), default=0)
    last = max(history.marks, key=lambda mark: mark.term, default=None)
    # The first of all reigns left nobody's log: it needs no record to be followed.
    if last is not None and last.term > max(known, 1):
        proof = f"its log is stored on line {last.line} up to {last.at:%Y-%m-%dT%H:%M:%SZ}"
        return LostRecord(last.line, proof, last.term, newest=True)
    if not history.terms or len(lines) < 2:
        return None  # a chain of one line is that of a reign with a record, and it tells of no other
    first = lines[0]
    cut_off = [backup.facts for backup in history.backups if backup.facts.line not in lines]
    if not cut_off or any(term.line == first for term in history.terms):
        return None
    mark = history.mark(first)
    proof = f"line {first} was left for line {lines[1]}, and base backup {cut_off[-1].id} lies before it"
    return LostRecord(first, proof, mark.term if mark is not None else 0)
