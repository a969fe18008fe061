"""Certificates of instances and of the operator, signed by the Database's authority.

Guarantees: a certificate is kept until two thirds of its life, or until its hosts or its authority change; then one
is made anew. Server certificates name every host by which clients and peers reach the instance. `issued` makes keys;
everything else is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from yoban.reconcilers.database.builders.authority import SKEW, Authority, KeyPair, due, key_pem, new_key
from yoban.reconcilers.database.builders.names import MANAGED_BY, Names
from yoban.reconcilers.database.builders.secrets import encode

LIFE = timedelta(days=90)
OPERATOR = "yoban-operator"
"""Common name of the certificate by which agents know the operator."""


def hosts(names: Names, number: int, further: Sequence[str] = ()) -> tuple[str, ...]:
    """Every name by which instance `number` is reached, `further` ones, and `localhost`."""
    found = [names.host(number), names.pod(number)]
    for service in (names.read_write, names.read_only, names.read_any):
        found += [f"{service}.{names.namespace}.svc", f"{service}.{names.namespace}", service]
    return tuple(dict.fromkeys((*found, "localhost", "127.0.0.1", *further)))


def instance_entries(
    authority: Authority,
    names: Names,
    number: int,
    client: str,
    live: Mapping[str, str],
    now: datetime,
    further: Sequence[str] = (),
) -> dict[str, str]:
    """Entries of an instance's certificate Secret: those found that still serve, others made anew.

    Args:
        authority: the Database's.
        names, number: the instance.
        client: common name of its client certificate.
        live: entries as found, empty for none.
        now: aware time.
        further: host names beside its own.
    """
    found = hosts(names, number, further)
    server = kept(authority, live, "tls", now, common_name=names.instance(number), hosts=found)
    if server is None:
        server = issued(authority, names.instance(number), now, hosts=found)
    peer = kept(authority, live, "client", now, common_name=client, hosts=()) or issued(authority, client, now)
    return {"ca.crt": authority.bundle, **_entries("tls", server), **_entries("client", peer)}


def operator_entries(authority: Authority, live: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Entries of the CA Secret that let the operator in at the agents."""
    pair = kept(authority, live, "operator", now, common_name=OPERATOR, hosts=()) or issued(authority, OPERATOR, now)
    return _entries("operator", pair)


def kept(
    authority: Authority, live: Mapping[str, str], name: str, now: datetime, *, common_name: str, hosts: Sequence[str]
) -> KeyPair | None:
    """The pair found under `name` when it still serves, else None."""
    pair = KeyPair(live.get(f"{name}.crt", ""), live.get(f"{name}.key", ""))
    try:
        certificate = pair.parsed
        key = serialization.load_pem_private_key(pair.key.encode(), None)
    except (ValueError, TypeError):
        return None
    if key.public_key() != certificate.public_key() or now >= due(certificate):
        return None
    if certificate.subject != _subject(common_name) or _hosts_of(certificate) != set(hosts):
        return None
    return pair if _trusted(certificate, authority) else None


def issued(authority: Authority, common_name: str, now: datetime, *, hosts: Sequence[str] = ()) -> KeyPair:
    """A new pair: for a server when there are `hosts`, for a client in any case."""
    key = new_key()
    signer = authority.signer
    signing = serialization.load_pem_private_key(signer.key.encode(), None)
    assert isinstance(signing, EllipticCurvePrivateKey)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(common_name))
        .issuer_name(signer.parsed.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(min(now + LIFE, signer.parsed.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.parsed.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=True, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(h) for h in hosts]), critical=False)
    certificate = builder.sign(signing, hashes.SHA256())
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem(key))


def tls_secret(names: Names, engine: str, number: int, entries: Mapping[str, str]) -> dict[str, Any]:
    """The Secret of an instance's certificates."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {
            "name": names.tls(number),
            "namespace": names.namespace,
            "labels": names.instance_labels(engine, number),
        },
        "data": encode(entries),
    }


def ca_secret(names: Names, operator_namespace: str, uid: str, entries: Mapping[str, str]) -> dict[str, Any]:
    """The Secret of the authority, in the operator's namespace."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": names.ca,
            "namespace": operator_namespace,
            "labels": {
                "app.kubernetes.io/managed-by": MANAGED_BY,
                "app.kubernetes.io/component": "authority",
                "yoban.dev/authority": "database",
            },
            "annotations": {
                "yoban.dev/database-namespace": names.namespace,
                "yoban.dev/database-name": names.database,
                "yoban.dev/database-uid": uid,
            },
        },
        "data": encode(entries),
    }


def _entries(name: str, pair: KeyPair) -> dict[str, str]:
    return {f"{name}.crt": pair.certificate, f"{name}.key": pair.key}


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _hosts_of(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(entry.value) for entry in names}


def _trusted(certificate: x509.Certificate, authority: Authority) -> bool:
    """Whether the present signer, or one retired whose key was lost, signed it.

    One that `renewed` retired in order is in the bundle too; its certificates run out by themselves and need no haste.
    """
    for pem in (authority.signer.certificate, *authority.retired):
        try:
            certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(pem.encode()))
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False
