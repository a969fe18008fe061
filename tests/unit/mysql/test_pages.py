"""Checksums of pages: what fits, what does not. Pages of real servers are in tests/integration/mysql/test_failures.py."""

from __future__ import annotations

import google_crc32c
import pytest
from yoban_mysql.pages import PAGE, damaged, has_pages, zip_size


def page(kind: int = 17855, fill: int = 7) -> bytearray:
    """A page of an index as the server would have written it."""
    made = bytearray([fill]) * PAGE
    made[24:26] = kind.to_bytes(2, "big")
    made[-4:] = made[20:24]
    sum = google_crc32c.value(bytes(made[4:26])) ^ google_crc32c.value(bytes(made[38:-8]))
    made[:4] = made[-8:-4] = sum.to_bytes(4, "big")
    return made


def test_the_sum_is_the_standard_one() -> None:
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720


# Bytes 26 to 33 are not covered: the server keeps there what it changes without a new checksum.
@pytest.mark.parametrize("at", [0, 4, 20, 25, 38, 5000, PAGE - 9, PAGE - 8, PAGE - 4, PAGE - 1])
def test_failure_17_a_flipped_byte_is_found(at: int) -> None:
    pages = page() + page(fill=8) + bytes(PAGE)
    assert list(damaged(pages)) == []
    pages[PAGE + at] ^= 0x01
    assert list(damaged(pages)) == [1]
    assert list(damaged(memoryview(pages)[: 2 * PAGE - 1])) == [], "half a page is not looked at"


def test_what_has_no_checksum_passes() -> None:
    for kind in (14, 15, 16, 17):
        opaque = page(kind)
        opaque[5000] ^= 1
        assert list(damaged(opaque)) == []


def test_compressed_tables_tell_the_size_of_their_pages() -> None:
    head = bytearray(64)
    assert zip_size(head) == 0
    for shift, size in ((1, 1024), (4, 8192)):
        head[54:58] = (1 | shift << 1 | 1 << 5).to_bytes(4, "big")
        assert zip_size(head) == size


@pytest.mark.parametrize(
    "path, there",
    [
        ("app/t.ibd", True), ("mysql.ibd", True), ("ibdata1", True), ("undo_001", True), ("more.ibu", True),
        ("#ib_16384_0.dblwr", False), ("#innodb_redo/#ib_redo1", False), ("app/t.MYD", False),
    ],
)  # fmt: skip
def test_which_files_have_pages(path: str, there: bool) -> None:
    assert has_pages(path) is there
