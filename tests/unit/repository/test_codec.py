from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import IntegrityError, Unsupported
from yoban.model.instance import Struct
from yoban.repository import codec
from yoban.repository.codec import Opener, parse_header, seal, seal_file, seal_struct, unseal, unseal_struct


class Thing(Struct):
    format: int = 1
    name: str
    when: datetime


def sealed(data: bytes = b"hello" * 1000, kind: str = "segment", name: str = "1/a", how: str = codec.ZSTD) -> bytes:
    return bytes(seal(kind, name, data, how).blob)


def changed(blob: bytes, **fields: object) -> bytes:
    line, payload = blob.split(b"\n", 1)
    return json.dumps(json.loads(line) | fields).encode() + b"\n" + payload


@given(st.binary(max_size=5000), st.sampled_from([codec.ZSTD, codec.PLAIN]), st.integers(1, 700))
def test_content_comes_back_in_whatever_pieces_it_arrives(data: bytes, how: str, step: int) -> None:
    blob = sealed(data, how=how)
    opener = Opener("k", "segment", "1/a")
    plain = b"".join(opener.feed(blob[start : start + step]) for start in range(0, len(blob), step))
    header = opener.finish()
    assert plain == data
    assert (header.size, header.codec, header.yoban) == (len(data), how, 1)


def test_an_object_can_be_read_with_common_tools(tmp_path: Path) -> None:
    path = tmp_path / "object"
    path.write_bytes(sealed(b"content"))
    header = json.loads(subprocess.run(["head", "-1", path], capture_output=True, check=True).stdout)
    assert {header[field] for field in ("codec", "cipher", "keyId")} == {"zstd", "none", ""}
    rest = subprocess.run(["tail", "-n", "+2", path], capture_output=True, check=True).stdout
    assert zstandard.ZstdDecompressor().decompress(rest) == b"content"


def test_file_and_memory_give_the_same_object(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    path = tmp_path / "segment"
    path.write_bytes(data)
    one = seal_file("segment", "1/a", path)
    assert unseal(one.blob, "k", "segment", "1/a") == data
    assert one.header.plain_sha256 == seal("segment", "1/a", data).header.plain_sha256


def test_the_file_s_codec_may_be_none(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    path.write_bytes(b"plain")
    assert bytes(seal_file("segment", "a", path, codec.PLAIN).blob).endswith(b"\nplain")


@pytest.mark.parametrize("field", ["codec", "cipher"])
def test_unknown_codec_or_cipher_is_refused(field: str) -> None:
    with pytest.raises(Unsupported) as error:
        unseal(changed(sealed(), **{field: "future", "keyId": "k9"}), "some/key", "segment", "1/a")
    assert error.value.object == "some/key"


def test_unknown_format_is_refused_whatever_else_it_says() -> None:
    line = b'{"yoban":2,"payload":"elsewhere"}\n'
    with pytest.raises(Unsupported):
        unseal(line, "k", "segment", "1/a")


def test_unknown_fields_of_this_format_are_ignored() -> None:
    assert unseal(changed(sealed(b"x"), more="later"), "k", "segment", "1/a") == b"x"


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_failure_12_any_flipped_bit_is_noticed(at: int, bit: int) -> None:
    blob = bytearray(sealed(b"some data, " * 40))
    at %= len(blob)
    blob[at] ^= 1 << bit
    try:
        plain = unseal(blob, "k", "segment", "1/a")
    except (IntegrityError, Unsupported):
        return
    assert plain == b"some data, " * 40  # a flip in a field that means nothing (a key id) does no harm


@pytest.mark.parametrize("how", [codec.ZSTD, codec.PLAIN])
def test_failure_08_any_cut_is_noticed(how: str) -> None:
    blob = sealed(b"some data, " * 40, how=how)
    for keep in range(len(blob)):
        with pytest.raises(IntegrityError) as error:
            unseal(blob[:keep], "the/key", "segment", "1/a")
        assert error.value.object == "the/key"


def test_bytes_after_the_end_are_noticed() -> None:
    for how in (codec.ZSTD, codec.PLAIN):
        with pytest.raises(IntegrityError):
            unseal(sealed(how=how) + b"more", "k", "segment", "1/a")


def test_an_object_under_a_wrong_name_is_noticed() -> None:
    for kind, name in (("segment", "1/b"), ("tail", "1/a")):
        with pytest.raises(IntegrityError, match="says that it is"):
            unseal(sealed(), "k", kind, name)


def test_what_is_no_object_of_ours() -> None:
    for blob in (b"\x00" * 9000, b"x", b'{"yoban":"one"}\n', b'{"yoban":1}\n', b"{" + b"a" * 9000):
        with pytest.raises(IntegrityError):
            parsed = parse_header(blob, "k")
            assert parsed is not None


def test_an_unfinished_header_asks_for_more() -> None:
    assert parse_header(b'{"yoban"', "k") is None
    assert parse_header(b"", "k") is None


def test_the_manifest_s_checksum_covers_the_header_too() -> None:
    import hashlib

    blob = sealed()
    good = hashlib.sha256(blob).hexdigest()
    opener = Opener("k", "segment", "1/a", sha256=good, size=len(blob))
    opener.feed(blob)
    opener.finish()
    for sha256, size in ((good, len(blob) + 1), ("0" * 64, len(blob))):
        opener = Opener("k", "segment", "1/a", sha256=sha256, size=size)
        opener.feed(blob)
        with pytest.raises(IntegrityError):
            opener.finish()


def test_more_plain_bytes_than_announced_are_refused_at_once() -> None:
    blob = changed(sealed(b"a" * 100_000), size=10)
    with pytest.raises(IntegrityError, match="more than"):
        unseal(blob, "k", "segment", "1/a")


def test_other_plain_content_is_noticed() -> None:
    import hashlib

    blob = changed(sealed(b"abc", how=codec.PLAIN), plainSha256=hashlib.sha256(b"abd").hexdigest())
    with pytest.raises(IntegrityError, match="plain content"):
        unseal(blob, "k", "segment", "1/a")


def test_records() -> None:
    thing = Thing(name="n", when=datetime(2026, 1, 1, tzinfo=UTC))
    blob = seal_struct("thing", "n", thing)
    assert unseal_struct(blob, "k", "thing", "n", Thing) == thing
    with pytest.raises(IntegrityError):
        unseal_struct(seal("thing", "n", b'{"name":1}').blob, "k", "thing", "n", Thing)


def test_unknown_codec_cannot_be_written() -> None:
    with pytest.raises(Unsupported):
        codec.compressor("future")
