"""Integers of variable length as the server's serialization library writes them. Pure.

The number of one bits at the low end of the first byte tells how many bytes follow; the value is the little-endian rest. A
signed number keeps its sign in the lowest bit and is inverted when negative.
"""

from __future__ import annotations


def read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at an offset, and the offset behind it. Raises IndexError when the data end within it."""
    first = data[at]
    more = 8 if first == 0xFF else (~first & (first + 1)).bit_length() - 1
    end = at + 1 + more
    if end > len(data):
        raise IndexError("the data end within a number")
    if more == 8:
        return int.from_bytes(data[at + 1 : end], "little"), end
    return int.from_bytes(data[at:end], "little") >> (more + 1), end


def read_signed(data: bytes, at: int) -> tuple[int, int]:
    """Return the signed number at an offset, and the offset behind it. Raises as `read_unsigned`."""
    found, end = read_unsigned(data, at)
    return (~(found >> 1) if found & 1 else found >> 1), end
