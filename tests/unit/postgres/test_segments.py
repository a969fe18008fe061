from __future__ import annotations

import struct
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import IntegrityError, InvalidInput
from yoban.plugins import Fork, SegmentKind
from yoban.plugins.lines import absent, runs
from yoban_postgres.log import PostgresLog, is_left
from yoban_postgres.lsn import (
    format_lsn,
    parse_lsn,
    record_end,
    segment_name,
    segment_number,
    segment_with,
    skip_header,
)
from yoban_postgres.positions import make
from yoban_postgres.segments import check_header, classify, read_header
from yoban_postgres.session import Kept

MIB = 1 << 20
log = PostgresLog(Kept())
sizes = st.sampled_from([MIB << step for step in range(11)])


@given(st.integers(0, (1 << 64) - 1))
def test_lsn_round_trip(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@given(sizes, st.integers(0, 1 << 24))
def test_names_and_numbers(size: int, number: int) -> None:
    name = segment_name("00000003", number, size)
    assert segment_number(name, size) == number
    assert log.successor(name, size) == segment_name("00000003", number + 1, size)


def test_failure_10_segments_of_64_mib_carry_over_at_64() -> None:
    assert log.successor("00000001000000000000003F", 64 * MIB) == "000000010000000100000000"
    assert log.successor("0000000100000000000000FE", 16 * MIB) == "0000000100000000000000FF"
    assert log.successor("0000000100000000000000FF", 16 * MIB) == "000000010000000100000000"
    assert log.segment_of("00000002", make(2, 64 * MIB), (), 64 * MIB) == "000000020000000000000000"
    assert log.segment_of("00000002", make(2, 64 * MIB + 1), (), 64 * MIB) == "000000020000000000000001"
    assert log.pads_to(64 * MIB) == 64 * MIB


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("000000010000000000000003", False),
        ("000000010000000000000004", True),
        ("000000010000000000000005", True),
        ("000000010000000000000004.partial", False),
        ("000000020000000000000004", False),
        ("000000020000000000000006", False),
        ("000000020000000000000007", True),
        ("000000030000000000000007", False),
        ("00000002.history", False),
    ],
)
def test_a_line_was_left_within_the_segment_of_its_fork(name: str, left: bool) -> None:
    forks = [
        Fork("00000002", "00000001", make(1, 4 * MIB + 200)),
        Fork("00000003", "00000002", make(2, 7 * MIB)),  # segment 6 is full to its last byte
    ]
    assert is_left(classify(name), MIB, forks) is left
    assert not is_left(classify(name), 0, forks), "nothing is known"


def test_what_is_absent_is_named() -> None:
    first, last = "0000000100000000000000FE", "000000010000000100000001"
    assert absent([first, last], first, last, log, 16 * MIB) == ("0000000100000000000000FF", "000000010000000100000000")
    for one, other in (
        ("000000010000000000000002", "000000010000000000000001"),
        ("000000010000000000000002", "000000020000000000000002"),
        ("x", "000000010000000000000002"),
        ("000000010000000000000000", "000000010000FFFF00000000"),
    ):
        with pytest.raises(InvalidInput):
            absent([], one, other, log, 16 * MIB)


def test_every_segment_of_a_long_log_is_looked_at_once() -> None:
    names = [segment_name("00000001", number, 16 * MIB) for number in range(1, 20_001)]
    with patch.object(log, "successor", wraps=log.successor) as successor:
        assert runs(names, lambda name: log.successor(name, 16 * MIB)) == ((names[0], names[-1]),)
        assert successor.call_count == len(names)
        successor.reset_mock()
        assert absent(names, names[0], names[-1], log, 16 * MIB) == ()
        assert successor.call_count < len(names)


def test_classify() -> None:
    base = "00000002000000000000000A"
    expected = {
        base: SegmentKind.FULL,
        f"{base}.partial": SegmentKind.PARTIAL,
        "00000003.history": SegmentKind.HISTORY,
        f"{base}.00000028.backup": SegmentKind.MARKER,
    }
    for name, kind in expected.items():
        assert classify(name).kind is kind
        assert classify(name).line == name[:8]
    for name in (
        "",
        "..",
        "archive_status",
        base.lower(),
        f"{base}.tmp",
        f"{base}/x",
        f"{base}\n",
        "00000003.history.ready",
    ):
        with pytest.raises(InvalidInput):
            classify(name)


def header(
    *, system: int = 7, address: int = 16 * MIB, size: int = 16 * MIB, line: int = 1, magic: int = 0xD110
) -> bytes:
    return struct.pack("<HHIQI4xQII", magic, 2, line, address, 0, system, size, 8192)


def test_failures_6_7_8_headers() -> None:
    name = "000000010000000000000001"
    check_header(read_header(header(), name), name, 16 * MIB, "7")
    copied = "000000020000000000000001"  # the segment in which line 2 began is a copy of line 1's
    check_header(read_header(header(), copied), copied, 16 * MIB, "7")
    wrong = [
        (header(system=8), name, 16 * MIB, "another cluster"),
        (header(), name, 15 * MIB, "cut short"),
        (header(), name, 17 * MIB, "too long"),
        (header(), "000000010000000000000002", 16 * MIB, "another part"),
        (header(line=2), name, 16 * MIB, "later line"),
    ]
    for data, asked, size, words in wrong:
        with pytest.raises(IntegrityError, match=words):
            check_header(read_header(data, asked), asked, size, "7")
    for data in (b"", b"\0" * 40, header(magic=0x1234)):
        with pytest.raises(IntegrityError):
            read_header(data, name)


def test_record_end_counts_headers_of_pages_it_crosses() -> None:
    size = 16 * MIB
    assert record_end(size + 40, 114, size) == size + 40 + 120
    assert record_end(size + 8192 - 8, 16, size) == size + 8192 + 24 + 8
    assert record_end(2 * size - 8, 16, size) == 2 * size + 40 + 8
    assert record_end(size + 8192 - 16, 16, size) == size + 8192
    assert skip_header(size, size) == size + 40
    assert skip_header(size + 8192, size) == size + 8192 + 24
    assert skip_header(size + 8, size) == size + 8
    assert segment_with("00000001", size, size) == "000000010000000000000001"
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn("0/1/2")
