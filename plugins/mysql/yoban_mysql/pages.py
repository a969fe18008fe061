"""Checksums of InnoDB's pages, as the server computes them (CRC-32C, `buf0checksum.cc` and `page0zip.cc` of its source).

Guarantees to find every page of a tablespace whose checksum does not fit; a page of zeros is valid (it was allocated, never
written). A page that the server compressed or encrypted on its way to the disk has none that could be computed, and passes.
CLONE copies pages as they lie on the disk: without a look at them a damaged one would be found when somebody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from yoban.errors import IntegrityError
from yoban.plugins import FileItem

PAGE = 16384
"""`innodb_page_size`, which is the same for all servers of ours."""
FLAGS_AT = 54
"""Where the first page of a tablespace has its flags."""
_OPAQUE = frozenset({14, 15, 16, 17})
"""Types of pages that were compressed (with a hole behind), encrypted, or both."""
_MOST_NAMED = 10


def zip_size(head: bytes) -> int:
    """Return the page size of a tablespace of compressed tables (ROW_FORMAT=COMPRESSED), 0 of any other.

    Args:
        head: the first bytes of its file, up to its flags at least.
    """
    shift = int.from_bytes(head[FLAGS_AT : FLAGS_AT + 4], "big") >> 1 & 0xF
    return 512 << shift if shift else 0


def damaged(data: bytes | memoryview, zipped: int = 0) -> Iterator[int]:
    """Yield the index of each page of `data` that is not valid; what lies behind the last whole page is not looked at.

    Args:
        data: whole pages.
        zipped: page size of a tablespace of compressed tables, 0 of any other.
    """
    from google_crc32c import value as checksum  # the operator, which loads this module too, never needs it

    size = zipped or PAGE
    fits = _zipped_fits if zipped else _fits
    view = memoryview(data)
    for at in range(0, len(view) - size + 1, size):
        page = bytes(view[at : at + size])
        if not fits(page, checksum) and any(page):
            yield at // size


def _fits(page: bytes, checksum: Callable[[bytes], int]) -> bool:
    if int.from_bytes(page[24:26], "big") in _OPAQUE:
        return True
    expected = (checksum(page[4:26]) ^ checksum(page[38:-8])).to_bytes(4, "big")
    return page[:4] == expected == page[-8:-4] and page[20:24] == page[-4:]


def _zipped_fits(page: bytes, checksum: Callable[[bytes], int]) -> bool:
    expected = checksum(page[4:16]) ^ checksum(page[24:26]) ^ checksum(page[34:])
    return page[:4] == expected.to_bytes(4, "big")


def has_pages(path: str) -> bool:
    """Whether a file of a backup, by its path there, is a tablespace."""
    name = PurePosixPath(path).name
    return name.endswith((".ibd", ".ibu")) or name.startswith(("ibdata", "undo_"))


class Verifier:
    """Checks the tablespaces of one copy as they are read. The copy does not change: a mismatch is damage."""

    def __init__(self) -> None:
        self._zipped: dict[Path, int] = {}

    def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
        """See `BackupSession.inspect`.

        Raises:
            IntegrityError: pages are damaged (reason `PageDamaged`).
        """
        zipped = self._zipped.get(item.source)
        if zipped is None:
            with item.source.open("rb") as file:
                zipped = self._zipped[item.source] = zip_size(file.read(FLAGS_AT + 4))
        first = offset // (zipped or PAGE)
        found = [first + index for index in damaged(data, zipped)]
        if found:
            raise IntegrityError(
                "data pages are damaged on disk",
                object=item.path,
                cause=f"pages {', '.join(map(str, found[:_MOST_NAMED]))}{' and more' if len(found) > _MOST_NAMED else ''}",
                fix="back up and promote a replica that is whole, and rebuild this instance; or restore",
                reason="PageDamaged",
            )
