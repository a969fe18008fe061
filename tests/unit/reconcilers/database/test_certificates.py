"""Certificates: rotation at two thirds, with an overlap of authorities, and lost keys."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from yoban.reconcilers.database.builders import authority as authorities
from yoban.reconcilers.database.builders import certificates
from yoban.reconcilers.database.builders.authority import Authority, renewed
from yoban.reconcilers.database.builders.names import Names

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def first() -> Authority:
    return renewed(None, "shop/orders", NOW)


def instance(
    authority: Authority, names: Names, now: datetime = NOW, live: dict[str, str] | None = None
) -> dict[str, str]:
    return certificates.instance_entries(authority, names, 1, "yoban-replication", live or {}, now)


def test_nothing_due_changes_nothing(first: Authority, names: Names) -> None:
    assert renewed(first, "x", NOW + timedelta(days=100)) is not None
    assert renewed(first, "x", NOW + timedelta(days=100)) == first
    live = instance(first, names)
    assert instance(first, names, NOW + timedelta(days=50), live) == live


def test_an_authority_is_read_as_it_was_written(first: Authority) -> None:
    later = renewed(first, "x", first.signer.due + timedelta(seconds=1))
    assert Authority.parse(later.entries()) == later
    changed = renewed(later, "x", first.signer.due + timedelta(days=3))
    assert changed.retired
    assert Authority.parse(changed.entries()) == changed


@pytest.mark.parametrize("spoil", ["signer.crt", "signer.key"])
def test_a_spoilt_authority_reads_as_none(first: Authority, spoil: str) -> None:
    assert Authority.parse({**first.entries(), spoil: "nonsense"}) is None
    assert Authority.parse({}) is None


def test_a_certificate_is_replaced_at_two_thirds_of_its_life(first: Authority, names: Names) -> None:
    live = instance(first, names)
    later = instance(first, names, NOW + timedelta(days=61), live)
    assert later["tls.crt"] != live["tls.crt"]
    assert later["client.crt"] != live["client.crt"]


def test_a_new_authority_is_trusted_before_it_signs(first: Authority, names: Names) -> None:
    due = first.signer.due + timedelta(seconds=1)
    live = instance(first, names)
    during = renewed(first, "x", due)
    assert during.signer == first.signer
    assert during.following is not None
    assert during.following.certificate in during.bundle
    assert renewed(during, "x", due + timedelta(hours=1)) == during
    after = renewed(during, "x", due + timedelta(days=2))
    assert after.signer == during.following
    assert first.signer.certificate in after.bundle
    still = certificates.kept(after, live, "tls", NOW, common_name="orders-1", hosts=certificates.hosts(names, 1))
    assert still is not None, "what the old authority signed runs out by itself"


def test_an_authority_leaves_the_bundle_when_it_expires(first: Authority) -> None:
    due = first.signer.due + timedelta(seconds=1)
    after = renewed(renewed(first, "x", due), "x", due + timedelta(days=2))
    assert not renewed(after, "x", first.signer.parsed.not_valid_after_utc + timedelta(seconds=1)).retired


def test_a_lost_authority_is_replaced_with_an_overlap(first: Authority, names: Names) -> None:
    live = instance(first, names)
    new = renewed(None, "x", NOW, trusted=first.bundle)
    assert new.signer != first.signer
    assert first.signer.certificate in new.bundle
    entries = instance(new, names, NOW, live)
    assert entries["tls.crt"] == live["tls.crt"]
    assert entries["ca.crt"] == new.bundle


def test_a_spoilt_public_bundle_does_not_stop_a_new_authority() -> None:
    assert renewed(None, "x", NOW, trusted="nonsense").retired == ()


def test_a_stranger_s_certificate_is_replaced(first: Authority, names: Names) -> None:
    live = instance(renewed(None, "x", NOW), names)
    assert instance(first, names, NOW, live)["tls.crt"] != live["tls.crt"]


@pytest.mark.parametrize("spoil", ["tls.crt", "tls.key", "client.key"])
def test_a_spoilt_entry_is_made_anew(first: Authority, names: Names, spoil: str) -> None:
    live = {**instance(first, names), spoil: "nonsense"}
    repaired = instance(first, names, NOW, live)
    assert repaired[spoil] != "nonsense"


def test_a_key_that_does_not_fit_is_replaced(first: Authority, names: Names) -> None:
    one, other = instance(first, names), instance(first, names)
    assert instance(first, names, NOW, {**one, "tls.key": other["tls.key"]})["tls.key"] != other["tls.key"]


def test_changed_hosts_need_a_new_certificate(first: Authority, names: Names) -> None:
    live = instance(first, names)
    elsewhere = Names("other", "orders", names.incarnation)
    assert instance(first, elsewhere, NOW, live)["tls.crt"] != live["tls.crt"]


def test_a_certificate_never_outlives_its_authority(first: Authority) -> None:
    end = first.signer.parsed.not_valid_after_utc
    pair = certificates.issued(first, "x", end - timedelta(days=2))
    assert pair.parsed.not_valid_after_utc == end


def test_keys_do_not_show_when_printed(first: Authority) -> None:
    assert "PRIVATE" not in repr(first)


def test_the_operator_s_certificate_is_kept(first: Authority) -> None:
    entries = certificates.operator_entries(first, {}, NOW)
    assert certificates.operator_entries(first, entries, NOW) == entries
    subject = x509.load_pem_x509_certificate(entries["operator.crt"].encode()).subject
    assert subject.rfc4514_string() == "CN=yoban-operator"


def test_secrets_name_whose_they_are(first: Authority, names: Names) -> None:
    secret = certificates.tls_secret(names, "keeper", 1, instance(first, names))
    assert secret["metadata"]["name"] == "orders-1-tls"
    assert set(secret["data"]) == {"ca.crt", "tls.crt", "tls.key", "client.crt", "client.key"}
    ca = certificates.ca_secret(names, "yoban-system", "uid", first.entries())
    assert ca["metadata"]["namespace"] == "yoban-system"
    assert ca["metadata"]["annotations"]["yoban.dev/database-uid"] == "uid"


def test_a_handshake_with_both_certificates(first: Authority, names: Names, tmp_path: Path) -> None:
    entries = {**instance(first, names), **certificates.operator_entries(first, {}, NOW)}
    for name, text in entries.items():
        (tmp_path / name).write_text(text)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    client.load_cert_chain(tmp_path / "operator.crt", tmp_path / "operator.key")
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with server.wrap_socket(connection, server_side=True) as tls:
                seen.append(tls.getpeercert())
                tls.send(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as raw,
            client.wrap_socket(raw, server_hostname=names.host(1)) as tls,
        ):
            assert tls.recv(1) == b"x"
        thread.join()
    assert seen


def test_certificates_of_an_empty_bundle() -> None:
    assert authorities.certificates(" \n") == ()
