"""Checksums of data pages, as the server computes them (its page format 4, FNV-1a by 32 lanes), with numpy.

Guarantees to find every page whose checksum does not fit; a page of zeros is valid (it was allocated, never written). Does
not judge: whether a mismatch is damage, or a write in progress, the caller finds out by reading again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE = 8192
LANES = 32
PRIME = np.uint32(16777619)
BLOCKS_PER_FILE = 131072
"""Pages in a file of 1 GiB: a relation's block number counts on over its files."""

_BASE = np.array(
    [
        0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
        0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
        0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
        0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
    ],
    dtype=np.uint32,
)  # fmt: skip
_BATCH = 256
_SHIFT = np.uint32(17)


def checksums(data: memoryview | bytes, first_block: int) -> NDArray[np.uint32]:
    """Return the checksum that each whole page of `data` should have.

    Args:
        data: whole pages.
        first_block: block number of the first.
    """
    words = np.frombuffer(data, dtype="<u4").reshape(-1, PAGE // 4 // LANES, LANES)
    found = np.empty(len(words), dtype=np.uint32)
    for start in range(0, len(words), _BATCH):  # a batch fits the processor's cache
        found[start : start + _BATCH] = _batch(words[start : start + _BATCH])
    blocks = np.arange(first_block, first_block + len(words), dtype=np.uint32)
    result: NDArray[np.uint32] = (found ^ blocks) % np.uint32(65535) + np.uint32(1)
    return result


def _batch(pages: NDArray[np.uint32]) -> NDArray[np.uint32]:
    sums = np.broadcast_to(_BASE, (len(pages), LANES)).copy()
    mixed = np.empty_like(sums)
    for row in range(pages.shape[1]):
        np.bitwise_xor(sums, pages[:, row, :], out=mixed)
        if row == 0:
            mixed[:, 2] = sums[:, 2] ^ (pages[:, 0, 2] & np.uint32(0xFFFF0000))  # the checksum itself counts as zero
        np.right_shift(mixed, _SHIFT, out=sums)
        np.multiply(mixed, PRIME, out=mixed)
        np.bitwise_xor(sums, mixed, out=sums)
    for _ in range(2):
        np.right_shift(sums, _SHIFT, out=mixed)
        np.multiply(sums, PRIME, out=sums)
        np.bitwise_xor(sums, mixed, out=sums)
    result: NDArray[np.uint32] = np.bitwise_xor.reduce(sums, axis=1)
    return result


def mismatches(data: memoryview | bytes, first_block: int) -> list[int]:
    """Return the indices of pages in `data` that are not valid; bytes behind the last whole page are not looked at."""
    view = memoryview(data)
    whole = view[: len(view) - len(view) % PAGE]
    if not whole:
        return []
    kept: NDArray[Any] = np.frombuffer(whole, dtype="<u2").reshape(-1, PAGE // 2)[:, 4]
    wrong = np.nonzero(checksums(whole, first_block) != kept)[0]
    return [int(index) for index in wrong if any(whole[int(index) * PAGE : (int(index) + 1) * PAGE])]


def page_lsn(page: memoryview | bytes) -> int:
    """Return the place in the log of a page's last change."""
    high, low = np.frombuffer(page[:8], dtype="<u4")
    return (int(high) << 32) | int(low)
