"""Which document is in force, and how a mount is read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from yoban.agent.document import Configurations, decode_document, newer
from yoban.agent.environment import Environment, read_environment
from yoban.errors import InvalidInput
from yoban.model.control import Push
from yoban.model.instance import InstanceDocument, LeaseDocument, StoreDocument


def document(generation: int = 1, revision: int = 0) -> InstanceDocument:
    return InstanceDocument(
        generation=generation,
        revision=revision,
        namespace="shop",
        database="orders",
        uid="u",
        incarnation="0123456789ab",
        engine="memory",
        version="1",
        members=[],
        lease=LeaseDocument(name="orders-primary"),
    )


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    names = {"YOBAN_NAMESPACE": "shop", "YOBAN_INSTANCE": "orders-1", "YOBAN_DATABASE": "orders"}
    return read_environment({**names, "YOBAN_ROOT": str(tmp_path)})


def mount(folder: Path, revision: str, **files: bytes) -> None:
    """As the kubelet does it: a folder a revision, and a link that is swapped."""
    inner = folder / revision
    inner.mkdir(parents=True)
    for name, content in files.items():
        (inner / name.replace("_", ".")).write_bytes(content)
    link = folder / "..data"
    fresh = folder / "..data_tmp"
    fresh.symlink_to(revision)
    fresh.replace(link)
    for name in files:
        entry = folder / name.replace("_", ".")
        if not entry.is_symlink():
            entry.symlink_to(f"..data/{entry.name}")


def test_the_greater_generation_then_revision_wins() -> None:
    assert newer(document(2, 0), document(1, 9))
    assert newer(document(1, 1), document(1, 0))
    assert not newer(document(1, 1), document(1, 1))


def test_a_mount_is_read_and_read_anew(environment: Environment) -> None:
    configurations = Configurations(environment)
    configurations.look()
    assert configurations.current is None
    mount(environment.spec, "one", document_json=msgspec.json.encode(document()))
    mount(environment.accounts, "one", owner=b"secret\n")
    mount(environment.store, "one", store_json=msgspec.json.encode(StoreDocument(provider="s3", bucket="b")))
    mount(environment.source, "one", store_json=msgspec.json.encode(StoreDocument()))
    mount(environment.tls, "one", tls_crt=b"certificate")
    configurations.look()
    current = configurations.current
    assert current is not None
    assert current.passwords == {"owner": "secret"}
    assert current.store is not None
    assert current.store.bucket == "b"
    assert current.source is None
    assert "secret" not in repr(current)
    serial = configurations.changed.serial
    configurations.look()
    assert configurations.changed.serial == serial
    mount(environment.tls, "two", tls_crt=b"another")
    configurations.look()
    assert configurations.changed.serial == serial + 1


def test_a_push_goes_before_an_older_mount_and_after_a_newer_one(environment: Environment) -> None:
    configurations = Configurations(environment)
    mount(environment.spec, "one", document_json=msgspec.json.encode(document(1, 1)))
    configurations.look()
    pushed = Push(document=document(1, 2), store=StoreDocument(provider="s3", bucket="pushed"))
    assert configurations.push(pushed)
    assert configurations.push(pushed)
    assert not configurations.push(Push(document=document(1, 1)))
    configurations.look()
    current = configurations.current
    assert current is not None
    assert current.document.revision == 2
    assert current.store is not None
    assert current.store.bucket == "pushed"
    mount(environment.spec, "two", document_json=msgspec.json.encode(document(2, 0)))
    configurations.look()
    assert configurations.current is not None
    assert configurations.current.document.generation == 2
    assert configurations.current.store is None


def test_what_cannot_be_read_is_said(environment: Environment) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        decode_document(b"{}", "x")
    with pytest.raises(InvalidInput, match="format 2"):
        decode_document(msgspec.json.encode(msgspec.structs.replace(document(), format=2)), "x")
    mount(environment.spec, "one", document_json=msgspec.json.encode(document()))
    mount(environment.store, "one", store_json=b"nonsense")
    with pytest.raises(InvalidInput, match="store"):
        Configurations(environment).look()


def test_unknown_fields_are_ignored() -> None:
    """A document of a newer operator."""
    raw = msgspec.json.decode(msgspec.json.encode(document()))
    assert decode_document(msgspec.json.encode({**raw, "later": 1}), "x") == document()


@pytest.mark.parametrize("missing", ["YOBAN_NAMESPACE", "YOBAN_INSTANCE", "YOBAN_DATABASE"])
def test_an_environment_without_names_is_refused(missing: str) -> None:
    names = {"YOBAN_NAMESPACE": "shop", "YOBAN_INSTANCE": "orders-1", "YOBAN_DATABASE": "orders"}
    del names[missing]
    with pytest.raises(InvalidInput, match=missing):
        read_environment(names)
    with pytest.raises(InvalidInput, match="MEMORY"):
        read_environment({**names, missing: "x", "YOBAN_MEMORY": "much"})
