"""A session that answers from a script and notes what it was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


class Scripted:
    """Answers a query with the rows of the first key that stands in it, or raises what stands there."""

    usable = True

    def __init__(self, answers: Mapping[str, Rows | Exception] | None = None) -> None:
        self.answers = dict(answers or {})
        self.told: list[str] = []
        """Statements that change something, with their arguments as the driver would put them."""

    async def execute(self, statement: str, *arguments: object, deadline: float = 4.0) -> int:
        self.told.append(statement % tuple(repr(one) for one in arguments) if arguments else statement)
        self._answer(self.told[-1])
        return 0

    async def rows(self, statement: str, *arguments: object, deadline: float = 4.0) -> list[dict[str, Any]]:
        return [dict(row) for row in self._answer(statement % tuple(map(repr, arguments)) if arguments else statement)]

    async def row(self, statement: str, *arguments: object, deadline: float = 4.0) -> dict[str, Any] | None:
        found = await self.rows(statement, *arguments)
        return found[0] if found else None

    async def value(self, statement: str, *arguments: object, deadline: float = 4.0) -> Any:
        found = await self.row(statement, *arguments)
        return next(iter(found.values())) if found else None

    def drop(self) -> None:
        pass

    async def leave(self) -> None:
        pass

    def _answer(self, text: str) -> Rows:
        for key, answer in self.answers.items():
            if key in text:
                if isinstance(answer, Exception):
                    raise answer
                return answer
        return ()
