"""The contestants: how each is made ready, started and watched as a process.

Guarantees that what is built or installed is that of the sources and locks in this folder (the cache's names are their
hashes), and that a started process ends with ours.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deploy.lab import binaries
from deploy.lab.layout import cache
from deploy.lab.process import Leash, run
from tests.bench.machine import BenchError, say
from tests.bench.runtime.processes import Usage, usage
from tests.bench.runtime.results import CLIENT_GO, CLIENT_GO_APPLY, KOPF, OURS
from tests.bench.runtime.world import World

HERE = Path(__file__).parent
OPERATORS = HERE / "operators"
ROOT = HERE.parents[2]
WORKERS = 16


@dataclass(frozen=True)
class Contestant:
    """One implementation: its name, its namespace, the command that starts it and its versions."""

    name: str
    namespace: str
    command: tuple[str | Path, ...]
    version: str
    environment: dict[str, str] = field(default_factory=dict)


def prepare(names: Iterable[str]) -> list[Contestant]:
    """Build and install what the named contestants need; a second call finds it in the cache. Blocking."""
    makers = {OURS: _ours, KOPF: _kopf, CLIENT_GO: _client_go, CLIENT_GO_APPLY: _client_go_apply}
    return [makers[name]() for name in names]


def _ours() -> Contestant:
    # The packages are installed as a user has them, not found by the path of this work tree.
    return Contestant(OURS, "bench-yoban", (sys.executable, OPERATORS / "ours.py"), f"Python {sys.version.split()[0]}")


def _kopf() -> Contestant:
    lock = OPERATORS / "kopf.lock"
    key = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache() / "bench" / f"kopf-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say("installing kopf into an environment of its own, in the cache")
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        run([sys.executable, "-m", "venv", folder])
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "--require-hashes", "-r", lock], deadline=600)
        run([python, "-m", "compileall", "-q", folder / "lib"], deadline=300)
        (folder / "complete").touch()
    version = run([python, "-c", "from importlib.metadata import version; print('kopf', version('kopf'))"]).strip()
    return Contestant(
        KOPF, "bench-kopf", (python, OPERATORS / "with_kopf.py"), f"{version}, Python {sys.version.split()[0]}"
    )


def _client_go() -> Contestant:
    folder = OPERATORS / "clientgo"
    go = binaries.toolchain()
    compiler = run([go, "env", "GOVERSION"], environment={"GOTOOLCHAIN": "local"}).strip()
    digest = hashlib.sha256(compiler.encode())
    for file in sorted(folder.iterdir()):
        digest.update(file.read_bytes())
    program = cache() / "bench" / f"clientgo-{digest.hexdigest()[:16]}"
    if not program.exists():
        say("building the controller on client-go")
        program.parent.mkdir(parents=True, exist_ok=True)
        part = program.with_name(f".{program.name}.part")
        environment = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        arguments: list[str | Path] = [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", part, "."]
        run(arguments, environment=environment, folder=folder, deadline=1200)
        part.rename(program)
    release = next(line.split()[1] for line in (folder / "go.mod").read_text().splitlines() if "client-go " in line)
    return Contestant(CLIENT_GO, "bench-clientgo", (program,), f"client-go {release}, {compiler}")


def _client_go_apply() -> Contestant:
    plain = _client_go()
    return Contestant(CLIENT_GO_APPLY, "bench-clientgo-apply", plain.command, plain.version, {"BENCH_APPLY": "1"})


class Operator:
    """A contestant that runs. `url` is the API server's, or a proxy's; `only_cache` a namespace that it only caches."""

    def __init__(self, contestant: Contestant, world: World, *, url: str | None = None, only_cache: str = ""):
        environment = {
            "BENCH_SERVER": url or world.api.url,
            "BENCH_TOKEN_FILE": str(world.tokens[contestant.namespace]),
            "BENCH_CA_FILE": str(world.api.ca_file),
            "BENCH_NAMESPACE": contestant.namespace,
            "BENCH_WORKERS": str(WORKERS),
            **contestant.environment,
        }
        if only_cache:
            environment |= {"BENCH_ONLY_CACHE": "1", "BENCH_NAMESPACE": only_cache}
        if url:
            environment["BENCH_JSON"] = "1"  # the proxy tells the events of a watch apart by their lines
        self.contestant, self.user = contestant, world.user(contestant.namespace)
        self.log = world.folder / f"{contestant.namespace}.log"
        self.mark = world.audit.mark()
        self._audit = world.audit
        self._watches = 1 if only_cache else 2
        self.started = time.time()
        self._process = Leash(contestant.command, self.log, environment=environment)

    @property
    def pid(self) -> int:
        """Of the process that is measured."""
        return self._process.pid

    def usage(self) -> Usage:
        """Raises BenchError when it has ended."""
        try:
            return usage(self._process.pid)
        except (OSError, IndexError) as error:
            raise BenchError(f"{self.contestant.name} has ended:\n{self.problems()}") from error

    def synced(self) -> float | None:
        """Seconds from its start until all its watches were open, None while they are not: what the API server saw."""
        opened: dict[str, float] = {}
        for request in self._audit.since(self.mark, self.user):
            if request.verb == "watch" and request.code == 200:
                opened.setdefault(request.resource, request.answered)
        return max(opened.values()) - self.started if len(opened) == self._watches else None

    def problems(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """End it as Kubernetes does, with SIGTERM. May be called twice. Blocking."""
        self._process.stop(10.0)


def versions(contestants: Iterable[Contestant]) -> dict[str, str]:
    """Of the contestants and of what they run against."""
    found = {contestant.name: contestant.version for contestant in contestants}
    for name in ("kube-apiserver", "etcd"):
        found[name] = binaries.PROGRAMS[name].version
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ
    )
    found["commit"] = commit.stdout.strip() or "unknown"
    return found
