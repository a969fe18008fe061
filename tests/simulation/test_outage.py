"""The operator of the simulation, in calm weather, while its API server is away for less than a Lease."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from yoban.testing.apirequest import Request

from tests.simulation.processes import Process, ProcessLoop
from tests.simulation.weather import CALM
from tests.simulation.world import World, options_of, silent

AWAY = 7.5  # seconds; the leader renews each two, and gives up ten after the last time
TIMINGS = (15.0, 10.0, 2.0, 2.0)


class Outage(World):
    """In the place of the faults' end: an outage, during which people go on changing things.

    Attributes:
        took: seconds from the return of the server until all was as the specs say.
        calls: requests sent while it was away, by process.
    """

    took = -1.0

    async def _heal(self) -> None:
        await super()._heal()
        await self._converge()
        lives = self.lives
        self.calls: Counter[str] = Counter()
        judged = self.network.on_send

        def count(process: Process, request: Request) -> None:
            self.calls[process.name] += not self.network.up
            judged(process, request)

        self.network.on_send = count
        self.network.up = False
        self.server.break_watches()
        await asyncio.sleep(AWAY / 2)
        for _ in range(20):
            self.user.act()
        self.user.let_go()
        await asyncio.sleep(AWAY / 2)
        self.network.up = True
        self.healed_at = back = self.loop.time()
        await self._until(self._so, 60.0, every=0.02)
        self.took = self.loop.time() - back
        assert self.lives == lives, "the leader outlives it"

    def _so(self) -> bool:
        self.server.collect_garbage()  # which otherwise takes seconds
        return not self.judge.lacks()


@pytest.mark.parametrize("seed", range(20))
def test_all_is_as_it_should_be_a_second_after_an_outage(seed: int) -> None:
    options = replace(
        options_of(seed), weather=CALM, strike_every=1e9, force=(), timings=TIMINGS, replicas=2, duration=30.0
    )
    loop = ProcessLoop()
    with silent(), asyncio.Runner(loop_factory=lambda: loop) as runner:

        async def story() -> Outage:
            world = Outage(seed, options, loop, lambda who, what: None)
            try:
                await world.run()
            finally:
                await world.bury()
            return world

        world = runner.run(story())
    # A probe takes up to a second to come, half a second is for all to be taken up again, and passes take a while.
    assert 0 <= world.took <= 1.5
    # A probe a second; the Lease each two; each of two or four watches at 0, 1.2, 3.6 s; and each of a few keys.
    assert max(world.calls.values()) <= 45
