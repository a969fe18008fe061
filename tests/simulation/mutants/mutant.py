"""A deliberately broken variant of the runtime, and how it is looked for.

A variant stands for a bug that was seen elsewhere, or was once ours. It is caught when the simulation breaks an invariant
that it is meant to break, or when a test of the unit suite fails; the code as it is must pass the very same.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from yoban.kube.client import Client
from yoban.kube.informer import Informer
from yoban.kube.ratelimit import RateLimiter
from yoban.kube.resource import CONFIG_MAP
from yoban.kube.workqueue import WorkQueue
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.clock import LoopClock, VirtualClockLoop

from tests.simulation.world import run, silent

SEEDS = 300  # tried before a variant counts as not caught


@dataclass(frozen=True, slots=True)
class Mutant:
    """One variant.

    Attributes:
        name: what it does wrong.
        row: the bug that it stands for.
        broken: within it the runtime is broken.
        invariants: of the simulation, one of which it must break; none when a test looks for it.
        change: options of each seed, so that it need not be looked for long.
        test: module and function of a unit test.
    """

    name: str
    row: str
    broken: Callable[[], AbstractContextManager[Any]]
    invariants: tuple[str, ...] = ()
    change: dict[str, object] = field(default_factory=dict)
    test: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Caught:
    """What caught a variant: words for the table, and the seed, or None for a test."""

    by: str
    seed: int | None


def catch(mutant: Mutant) -> Caught | None:
    """Look for `mutant`; None when nothing caught it. AssertionError when the code as it is is caught as well."""
    if mutant.test is not None:
        _scenario(*mutant.test)  # as it is
        with mutant.broken():
            try:
                _scenario(*mutant.test)
            except Exception as error:
                return Caught(f"{mutant.test[1]} ({type(error).__name__})", None)
        return None
    for seed in range(SEEDS):
        with mutant.broken():
            violation = run(seed, change=mutant.change).violation
        if violation is None:
            continue
        assert violation.invariant in mutant.invariants, f"seed {seed} broke something else: {violation}"
        sound = run(seed, change=mutant.change).violation
        assert sound is None, f"seed {seed} fails without the mutant, too: {sound}"
        return Caught(f"invariant {violation.invariant}", seed)
    return None


def _scenario(module: str, name: str) -> None:
    """Run a test of the unit suite with the fixtures that it names."""
    test = getattr(importlib.import_module(module), name)
    if not inspect.iscoroutinefunction(test):
        test()
        return

    async def story() -> None:
        clock = LoopClock()
        server = FakeApiServer(clock=clock)
        async with Client(server, random=lambda: 0.5) as client:
            fixtures = {
                "clock": clock,
                "server": server,
                "client": client,
                "informer": Informer(client, CONFIG_MAP),
                "queue": WorkQueue("test", RateLimiter(jitter=0.0)),
            }
            async with asyncio.timeout(20_000):
                await test(**{name: fixtures[name] for name in inspect.signature(test).parameters})

    with silent(), asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(story())


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` within the block."""
    kept = inspect.getattr_static(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)
