"""Pages and control file: against what a real initdb wrote, where there is one, and against a slow reference."""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yoban.errors import IntegrityError
from yoban_postgres import controlfile, pages


def reference(page: bytes, block: int) -> int:
    """The algorithm of the server's documentation in its comments, a word at a time."""
    words = list(struct.unpack("<2048I", page))
    words[2] &= 0xFFFF0000
    sums = [int(value) for value in pages._BASE]

    def mix(total: int, value: int) -> int:
        mixed = total ^ value
        return ((mixed * 16777619) & 0xFFFFFFFF) ^ (mixed >> 17)

    for row in range(64):
        sums = [mix(sums[lane], words[row * 32 + lane]) for lane in range(32)]
    for _ in range(2):
        sums = [mix(total, 0) for total in sums]
    folded = 0
    for total in sums:
        folded ^= total
    return ((folded ^ block) % 65535) + 1


def sealed(body: bytes, block: int) -> bytes:
    page = (body * (8192 // len(body) + 1))[:8192]
    checksum = reference(page, block)
    return page[:8] + checksum.to_bytes(2, "little") + page[10:]


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=64, max_size=512), st.integers(0, 1 << 31), st.integers(0, 8191))
def test_any_changed_byte_is_found(body: bytes, block: int, place: int) -> None:
    page = sealed(body, block)
    assert pages.mismatches(page, block) == []
    assert pages.mismatches(page, block + 1) == [0]
    broken = bytearray(page)
    broken[place] ^= 0x40
    assert pages.mismatches(broken, block) == [0]


def test_zeros_are_valid_and_the_rest_of_a_page_is_not_looked_at() -> None:
    assert pages.mismatches(b"", 0) == []
    assert pages.mismatches(b"\0" * 8192 * 3 + b"x" * 100, 0) == []
    assert pages.mismatches(b"\0" * 8192 + b"\0" * 4000 + b"\1" + b"\0" * 4191, 0) == [1]
    assert pages.page_lsn(struct.pack("<II", 3, 0x148) + b"\0" * 8184) == 0x3_0000_0148


def test_many_pages_at_once() -> None:
    data = b"".join(sealed(bytes([index % 251, 1, 2, 3]) * 16, index) for index in range(300))
    assert pages.mismatches(data, 0) == []
    broken = bytearray(data)
    broken[270 * 8192 + 100] ^= 1
    assert pages.mismatches(memoryview(broken), 0) == [270]


@pytest.fixture(scope="module")
def real_data() -> Iterator[Path]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("PostgreSQL is not installed")
    import pwd
    import subprocess
    import tempfile

    root = Path(tempfile.mkdtemp(prefix="yo-", dir="/tmp"))
    words = [str(programs[-1]), "-D", str(root / "data"), "-k", "-N", "-U", "postgres"]
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(root, user.pw_uid, user.pw_gid)
        words = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *words]
    subprocess.run(words, check=True, capture_output=True, cwd="/tmp")
    yield root / "data"
    shutil.rmtree(root)


@pytest.mark.server
def test_all_pages_and_the_control_file_of_real_data_match(real_data: Path) -> None:
    count = 0
    for path in real_data.glob("base/*/[0-9]*"):
        count += path.stat().st_size // 8192
        assert pages.mismatches(path.read_bytes(), 0) == [], path
    assert count > 500
    data = controlfile.read_whole(real_data / "global" / "pg_control")
    for place in (0, 60, 150, 280):
        assert not controlfile.whole(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])


def test_a_control_file_that_stays_torn_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    file = tmp_path / "pg_control"
    file.write_bytes(b"x" * 8192)
    with pytest.raises(IntegrityError, match="control file"):
        controlfile.read_whole(file)
    assert not controlfile.whole(b"\0" * 8192)
