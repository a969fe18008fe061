"""Files that MySQL 9.7 wrote: untagged and tagged GTIDs, DDL, XA, a compressed transaction, one replicated from elsewhere."""

from __future__ import annotations

import io
import itertools
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import IntegrityError, Unsupported
from yoban_mysql.binlog import BinlogFile
from yoban_mysql.gtid import GtidSet
from yoban_mysql.varint import read_signed, read_unsigned

FOLDER = Path(__file__).parent / "binlogs"
FIRST, SECOND, THIRD = (b64decode((FOLDER / f"binlog.00000{n}.base64").read_text()) for n in (1, 2, 3))
US = "691fa050-e821-11f1-896d-02fc00000001"
OTHER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


def opened(data: bytes, *, verify: bool = True, size: int | None = None) -> BinlogFile:
    return BinlogFile(io.BytesIO(data), len(data) if size is None else size, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_what_files_hold(verify: bool) -> None:
    first, second, third = (opened(data, verify=verify).contents() for data in (FIRST, SECOND, THIRD))
    assert first.version == "9.7.4-2"
    assert not first.previous
    assert str(first.gtids) == f"{US}:1-3:blue_1:1-2"
    assert (first.count, first.closed, first.end) == (5, True, len(FIRST))
    assert second.previous == first.after
    assert str(second.gtids) == f"{OTHER}:5:red:9,{US}:4-10"
    assert (second.count, second.closed, second.end) == (9, True, len(SECOND))
    assert third.previous == second.after
    assert (third.count, third.gtids, third.first, third.last) == (0, GtidSet(), None, None)
    assert (third.closed, third.end) == (True, len(THIRD))


def test_times_are_those_of_the_first_commit() -> None:
    found = {str(one.gtid): one.committed for one in opened(SECOND).transactions()}
    assert found[f"{OTHER}:5"] == datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC)
    assert found[f"{US}:4"] == datetime(2026, 11, 24, 16, 9, 25, 754480, tzinfo=UTC)
    assert found[f"{OTHER}:red:9"] == datetime(2026, 11, 24, 16, 9, 25, 776523, tzinfo=UTC)


def test_transactions_lie_end_to_end() -> None:
    found = list(opened(SECOND).transactions())
    assert all(one.end == following.start for one, following in itertools.pairwise(found))
    assert found[0].start == 246
    assert found[-1].end == 2784, "the end of the file says that it was closed"


def test_a_growing_file_shows_only_what_is_whole() -> None:
    whole = list(opened(SECOND).transactions())
    for size in range(246, len(SECOND)):
        file = opened(SECOND, size=size)
        assert list(file.transactions()) == [one for one in whole if one.end <= size]
        assert file.end == max([246, *(one.end for one in whole if one.end <= size)])
        assert not file.closed


def test_a_file_cut_within_its_head_is_refused() -> None:
    for size in range(246):
        with pytest.raises(IntegrityError):
            opened(SECOND[:size])


def test_a_file_shorter_than_said_is_refused() -> None:
    with pytest.raises(IntegrityError, match="ends before byte"):
        opened(SECOND[:-1], size=len(SECOND)).contents()


def test_every_flipped_byte_is_found() -> None:
    for at in range(len(SECOND)):
        damaged = bytearray(SECOND)
        damaged[at] ^= 0x10
        try:
            found = opened(bytes(damaged)).contents()
        except (IntegrityError, Unsupported):
            continue
        # A length that points behind the end of the file looks like a file cut there: it is not closed.
        assert not found.closed, f"byte {at} was flipped and not found"
        assert found.gtids <= opened(SECOND).contents().gtids


def test_a_file_in_use_can_be_read() -> None:
    in_use = bytearray(SECOND)
    in_use[4 + 17] |= 1
    assert opened(bytes(in_use), size=2784).contents().gtids == opened(SECOND).contents().gtids


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(IntegrityError, match=f"byte {len(SECOND)}"):
        opened(SECOND + FIRST[4:]).contents()


def test_an_encrypted_file_says_what_to_do() -> None:
    with pytest.raises(Unsupported, match="binlog_encryption"):
        opened(b"\xfdbin" + SECOND[4:])


def test_another_file_is_refused() -> None:
    with pytest.raises(IntegrityError, match="no binary log"):
        opened(b"PAR1" + SECOND[4:])


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_variable_length(number: int) -> None:
    more = next((n for n in range(8) if number < 1 << 7 * (n + 1)), 8)
    data = (
        b"\xff" + number.to_bytes(8, "little")
        if more == 8
        else ((number << (more + 1)) | ((1 << more) - 1)).to_bytes(more + 1, "little")
    )
    assert read_unsigned(b"x" + data, 1) == (number, 1 + len(data))
    signed = ~(number >> 1) if number & 1 else number >> 1
    assert read_signed(data, 0) == (signed, len(data))
    with pytest.raises(IndexError):
        read_unsigned(data[:-1], 0)
