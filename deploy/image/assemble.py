"""`assemble.py TARGET SITE`: put the self-contained runtime together, from the machine it runs on (an image build).

Guarantees that TARGET holds the interpreter, the standard library without tests and desktop parts, the packages of
SITE, every shared library that any of them links to, the loader, CA certificates and time zones, all compiled, and
that nothing in it depends on where the files came from or on their time stamps. Standard library only.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

# What a server never needs: tests, desktop, and the tools that build or teach Python.
_STDLIB_OUT = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "pydoc_data", "venv",
    "site-packages", "dist-packages", "__pycache__", "idle_test", "__phello__", "EXTERNALLY-MANAGED",
}  # fmt: skip
_SITE_OUT = {"__pycache__", "tests", "bin", "include"}
# botocore describes every service of its cloud: these are the ones that an object store and its credentials need.
_BOTOCORE_SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}
# Loaded by name at run time, so that no link shows them.
_LOADED_BY_NAME = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2")
_LDD_LINE = re.compile(r"^\s*(?P<name>\S+) => (?P<path>/\S+) \(0x")
_CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_OPENSSL_CONFIG = """openssl_conf = settings
[settings]
ssl_conf = tls
[tls]
system_default = defaults
[defaults]
MinProtocol = TLSv1.2
"""


def main(target: Path, site: Path) -> None:
    """Make the runtime in `target`, which is replaced."""
    shutil.rmtree(target, ignore_errors=True)
    library = target / "lib"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in (target / "bin", library, target / "etc" / "ssl", target / "share"):
        folder.mkdir(parents=True)
    standard = library / version
    shutil.copytree(sysconfig.get_path("stdlib"), standard, symlinks=False, ignore=_leave_out(_STDLIB_OUT))
    for config in standard.glob("config-*"):
        shutil.rmtree(config)
    # A folder of its own, named on PYTHONPATH: distributions disagree about where below PYTHONHOME packages are.
    shutil.copytree(site, library / "site", symlinks=False, ignore=_leave_out(_SITE_OUT))
    _prune_botocore(library / "site")
    _prune_sources(library / "site")
    _strip(library / "site")
    python = target / "bin" / "python3"
    shutil.copy2(Path(sys.executable).resolve(), python)
    _add_libraries(target, python)
    shutil.copy2(_CA_BUNDLE, target / "etc" / "ssl" / "cert.pem")
    (target / "etc" / "ssl" / "openssl.cnf").write_text(_OPENSSL_CONFIG)
    shutil.copytree("/usr/share/zoneinfo", target / "share" / "zoneinfo", ignore=_leave_out({"right", "posix"}))
    # Hash-based and unchecked: a copy with new time stamps on a read-only volume still uses them.
    compileall.compile_dir(
        library,
        quiet=1,
        stripdir=str(target),
        prependdir="/opt/yoban",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    # Thousands of generated classes that an operator in a Pod never imports: their source is there, should it.
    for models in (library / "site").glob("kubernetes_asyncio/client/models/__pycache__"):
        shutil.rmtree(models)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _leave_out(names: set[str]):  # type: ignore[no-untyped-def]  # shutil's own callback type
    return lambda _folder, entries: {entry for entry in entries if entry in names}


def _prune_botocore(site: Path) -> None:
    data = site / "botocore" / "data"
    if data.is_dir():
        for folder in data.iterdir():
            if folder.is_dir() and folder.name not in _BOTOCORE_SERVICES:
                shutil.rmtree(folder)


def _prune_sources(site: Path) -> None:
    """Drop what extension modules were compiled from, which some wheels ship beside them."""
    for pattern in ("*.c", "*.pyx", "*.pxd"):
        for source in site.rglob(pattern):
            source.unlink()


def _strip(site: Path) -> None:
    """Drop symbols of extension modules, which some wheels ship with all of their debug information."""
    for module in site.rglob("*.so"):
        package = module.relative_to(site).parts[0]
        # Where a wheel brings libraries, they and its modules were patched to fit, and stripping would break that.
        if not package.endswith(".libs") and not (site / f"{package}.libs").exists():
            subprocess.run(["strip", "--strip-unneeded", module], check=True)


def _add_libraries(target: Path, python: Path) -> None:
    """Copy what the programs and modules link to into `lib`, and the loader to `bin/ld.so`."""
    library = target / "lib"
    loader = _loader(python)
    shutil.copy2(loader.resolve(), target / "bin" / "ld.so")
    wanted = {path.name: path for path in _linked([python, *_modules(target)]) if target not in path.parents}
    folder = _folder_of("libc.so.6", wanted)
    for name in _LOADED_BY_NAME:
        if (folder / name).exists():
            wanted.setdefault(name, folder / name)
    for path in _linked(wanted.values()):
        wanted.setdefault(path.name, path)
    for name, path in wanted.items():
        if not name.startswith("ld-linux"):
            shutil.copy2(path.resolve(), library / name)


def _modules(target: Path) -> Iterator[Path]:
    return (path for path in target.rglob("*.so*") if path.is_file())


def _folder_of(name: str, libraries: dict[str, Path]) -> Path:
    return libraries[name].parent


def _linked(programs: Iterable[Path]) -> Iterator[Path]:
    """The libraries that ldd finds for these files; a missing one ends the build."""
    for program in programs:
        output = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        if "not found" in output:
            raise SystemExit(f"{program} needs a library that is not here:\n{output}")
        for line in output.splitlines():
            match = _LDD_LINE.match(line)
            if match:
                yield Path(match["path"])


def _loader(python: Path) -> Path:
    output = subprocess.run(["ldd", python], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(/\S*ld-linux\S*)", output)
    if match is None:
        raise SystemExit(f"no loader in:\n{output}")
    return Path(match[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
