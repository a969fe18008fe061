"""Container images of the lab, made by buildah in a storage of the lab's own, without a container engine.

Guarantees that the machine's own images and settings are not touched, that building again after no change takes a
moment, and that an archive always holds the image that its name says. Needs root.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.lab import packages
from deploy.lab.failure import LabError, LabUnavailable
from deploy.lab.layout import REPOSITORY, cache
from deploy.lab.process import run
from deploy.lab.progress import say, step

PREFIX = "localhost/yoban-lab/"
PAUSE = PREFIX + "pause:1"
TOY = PREFIX + "toy:latest"
OPERATOR = PREFIX + "yoban:dev"
OPERATOR_WITH_TOY = PREFIX + "yoban-toy:dev"
"""The operator's image with one more engine, as a third party would make it."""
TOY_SERVER = PREFIX + "toy-server:1"
"""That engine's own image; the same as `TOY`, under a tag that Kubernetes does not insist on pulling."""

_FOLDER = Path(__file__).parent / "images"
_SUITES = ("trixie", "bookworm")
_HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Image:
    """How an image is built: its Containerfile, its context, the Debian suite under it, further build arguments."""

    name: str
    containerfile: Path
    context: Path
    suite: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)


def _postgres(version: str, suite: str) -> Image:
    folder = _FOLDER / "postgres"
    return Image(f"{PREFIX}postgres:{version}", folder / "Containerfile", folder, suite, {"VERSION": version})


IMAGES = {
    image.name: image
    for image in (
        Image(PAUSE, _FOLDER / "pause" / "Containerfile", _FOLDER / "pause"),
        Image(TOY, _FOLDER / "toy" / "Containerfile", _FOLDER / "toy", "bookworm"),
        Image(TOY_SERVER, _FOLDER / "toy" / "Containerfile", _FOLDER / "toy", "bookworm"),
        Image(OPERATOR, REPOSITORY / "deploy" / "image" / "Containerfile", REPOSITORY, "bookworm"),
        Image(OPERATOR_WITH_TOY, _FOLDER / "yoban-toy" / "Containerfile", _FOLDER, arguments={"BASE": OPERATOR}),
        _postgres("17", "trixie"),
        _postgres("15", "bookworm"),
        Image(f"{PREFIX}mysql:9.7", _FOLDER / "mysql" / "Containerfile", _FOLDER / "mysql", "trixie"),
    )
}
SYSTEM = (PAUSE, TOY)
"""What the cluster itself needs."""


def full_name(name: str) -> str:
    """`postgres:17`, `yoban` and so on as full image names; a full name stays."""
    if "/" in name:
        return name
    exact = [full for full in IMAGES if full == PREFIX + name]
    tagged = [full for full in IMAGES if full.split(":")[0] == PREFIX + name]
    return (exact or (tagged if len(tagged) == 1 else [PREFIX + name]))[0]


def identity(name: str) -> str | None:
    """The id of a built image, `None` when there is none of that name."""
    arguments = ["inspect", "--type", "image", "--format", "{{.FromImageID}}", full_name(name)]
    return run(_buildah(*arguments), check=False, environment=_ENVIRONMENT).strip() or None


def ensure(names: list[str]) -> None:
    """Build those of the named images that are not there. A second call is quick."""
    if shutil.which("buildah") is None and os.geteuid() != 0:
        raise LabUnavailable("building images needs root")
    for name in names:
        if identity(name) is None:
            build(name)


def build(name: str) -> str:
    """Build an image (what did not change comes from layers of before) and return its id."""
    image = IMAGES.get(full_name(name))
    if image is None:
        raise LabError(f"no image is called {name.removeprefix(PREFIX)}; there are {sorted(IMAGES)}")
    if os.geteuid() != 0:
        raise LabUnavailable("building images needs root")
    packages.ensure(packages.IMAGES)
    arguments = [f"--build-arg={key}={value}" for key, value in image.arguments.items()]
    if image.suite is not None:
        arguments.append(f"--build-arg=BASE={_base(image.suite)}")
    if image.name == PAUSE:
        image = replace(image, context=program("pause").parent)
    if image.name == OPERATOR_WITH_TOY:
        ensure([OPERATOR])
    if image.name == OPERATOR:
        arguments += [f"--ignorefile={image.containerfile}.dockerignore", *_package_index()]
    before = identity(image.name)
    with _lock(), step(f"building {image.name}"):
        context = _wheel(REPOSITORY / "tests" / "toy") if image.name == OPERATOR_WITH_TOY else image.context
        command = ["build", "--pull-never", "--layers", *arguments, "--file", str(image.containerfile)]
        _watched(_buildah(*command, "--tag", image.name, str(context)), image.name)
    built = identity(image.name)
    if built is None:
        raise LabError(f"{image.name} was built, and is not there")
    if before not in (None, built):
        # Images of before that lost their name; layers that a build may use again stay.
        run(_buildah("rmi", before), check=False, environment=_ENVIRONMENT)
    return built


def archive(name: str) -> Path:
    """The image as an OCI archive, uncompressed, named by its id; written once, older ones of the name removed."""
    name = full_name(name)
    found = identity(name)
    if found is None:
        raise LabError(f"{name} is not built: run `python -m deploy.lab images {name.removeprefix(PREFIX)}`")
    stem = re.sub(r"[^a-z0-9.]+", "-", name.removeprefix(PREFIX))
    file = _root() / "archives" / f"{stem}@{found[:16]}.tar"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        push = _buildah("push", "--quiet", "--disable-compression", name, f"oci-archive:{part}:{name}")
        run(push, deadline=600, environment=_ENVIRONMENT)
        for old in file.parent.glob(f"{stem}@*"):
            if old != part:
                old.unlink()
        part.rename(file)
    return file


def unpacked(name: str) -> Path:
    """A folder with the `usr` of a built image, for tests that run its programs on this machine; made once for an id."""
    name = full_name(name)
    found = identity(name)
    if found is None:
        raise LabError(f"{name} is not built: run `python -m deploy.lab images {name.removeprefix(PREFIX)}`")
    stem = re.sub(r"[^a-z0-9.]+", "-", name.removeprefix(PREFIX))
    folder = _root() / "unpacked" / f"{stem}@{found[:16]}"
    if not folder.exists():
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with _lock(), step(f"unpacking {name}"):
            container = run(_buildah("from", "--pull-never", name), environment=_ENVIRONMENT).strip()
            try:
                # The container's root is the working folder of the chroot isolation: a copy from within sees only it.
                target = f"{part}:/run/target"
                copy = ("run", f"--volume={target}", container, "--", "cp", "-a", "/usr", "/run/target/")
                run(_buildah(*copy), environment=_ENVIRONMENT, deadline=600)
            finally:
                run(_buildah("rm", container), check=False, environment=_ENVIRONMENT)
        for old in folder.parent.glob(f"{stem}@*"):
            if old != part:
                shutil.rmtree(old)
        part.rename(folder)
    return folder


def program(name: str) -> Path:
    """A statically linked program that an image of the lab is made of (`pause`), built when missing."""
    if name != "pause":
        raise LabError(f"no image is made of {name}")
    file = _context() / name
    if not file.exists():
        packages.ensure(packages.IMAGES)
        part = file.with_suffix(".part")
        source = _FOLDER / name / f"{name}.c"
        run(["gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-o", part, source])
        part.rename(file)
    return file


# Images live in a folder of the lab's own; the chroot isolation needs neither a container runtime nor a network.
_PRIVATE = ("unshare", "--mount", "--propagation", "private")
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay"}


@contextmanager
def _lock() -> Iterator[None]:
    """One build at a time: a failed one removes the containers of all."""
    with (_context() / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _root() -> Path:
    return cache() / "images"


def _context() -> Path:
    folder = _root() / "context"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _buildah(*arguments: str) -> list[str]:
    """A buildah command in mounts of its own: none is left on the machine, whatever happens to it."""
    storage, run_folder = _root() / "storage", _root() / "run"
    for folder in (storage, run_folder):
        folder.mkdir(parents=True, exist_ok=True)
    # The run folder counts mounts: with the mounts gone, it must start anew each time.
    script = (
        'mount -t tmpfs tmpfs "$1" && run=$1 root=$2 && shift 2 && exec buildah --root "$root" --runroot "$run" "$@"'
    )
    return [*_PRIVATE, "sh", "-c", script, "sh", str(run_folder), str(storage), *arguments]


def _base(suite: str) -> str:
    """The Debian base image of a suite, made by debootstrap when it is not there."""
    name = f"{PREFIX}debian:{suite}"
    if identity(name) is not None:
        return name
    mirror = _mirror()
    folder = _root() / f"debootstrap-{suite}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with step(f"making a Debian {suite} base image (debootstrap, about a minute)"):
        command = ["debootstrap", "--variant=minbase", suite, str(folder), *([mirror] if mirror else [])]
        run(command, deadline=1200)
        for rest in ("var/lib/apt/lists", "var/cache/apt/archives", "var/log"):
            for file in (folder / rest).rglob("*"):
                if file.is_file():
                    file.unlink()
        container = run(_buildah("from", "scratch"), environment=_ENVIRONMENT).strip()
        run(_buildah("add", "--quiet", container, str(folder), "/"), environment=_ENVIRONMENT, deadline=300)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run(_buildah("config", "--cmd", "/bin/bash", "--env", f"PATH={path}", container), environment=_ENVIRONMENT)
        run(_buildah("commit", "--quiet", "--rm", container, name), environment=_ENVIRONMENT, deadline=300)
    shutil.rmtree(folder)
    return name


def _wheel(distribution: Path) -> Path:
    """A folder with nothing but the wheel of a distribution, built anew; the same sources make the same wheel."""
    folder = _root() / "wheels" / distribution.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder], folder=distribution)
    return folder


def _mirror() -> str | None:
    """The Debian mirror that this machine's apt uses; `None` leaves it to debootstrap's own default."""
    folder = Path("/etc/apt")
    for file in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if file.suffix == ".sources":
            found = re.findall(r"(?m)^URIs:\s*(\S+)", text)
        elif file.suffix == ".list":
            found = re.findall(r"(?m)^deb\s+(?:\[[^]]*\]\s+)?(\S+)", text)
        else:
            continue
        for address in found:
            if address.rstrip("/").endswith("/debian"):
                return str(address)
    return None


def _package_index() -> list[str]:
    """Build arguments by which pip inside the build reaches the index that this machine uses."""
    arguments = []
    if _HOST_CERTIFICATES.exists():
        arguments += [f"--volume={_HOST_CERTIFICATES}:/run/host-certificates.crt:ro"]
        arguments += ["--build-arg=PIP_CERT=/run/host-certificates.crt"]
    if "PIP_INDEX_URL" in os.environ:
        arguments.append(f"--build-arg=PIP_INDEX_URL={os.environ['PIP_INDEX_URL']}")
    return arguments


def _watched(command: list[str], name: str) -> None:
    """Run a build and show its steps."""
    printed: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **_ENVIRONMENT},
    ) as builder:
        assert builder.stdout is not None
        shown = time.monotonic()
        for line in builder.stdout:
            printed.append(line)
            if re.match(r"(\[\d+/\d+\] )?STEP ", line) or time.monotonic() - shown > 15:
                shown = time.monotonic()
                say(f"  {line.strip()[:100]}")
    if builder.returncode != 0:
        run(_buildah("rm", "--all"), check=False, environment=_ENVIRONMENT)  # what the failed build left
        raise LabError(f"building {name} failed:\n{''.join(printed[-25:])}")
