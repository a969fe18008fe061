"""The certificate authority of one Database: its keys, and when they change.

Guarantees: a new authority is trusted for a day (`OVERLAP`) before it signs anything, and the old one is trusted
until it expires, so no connection fails while certificates rotate. When the keys were lost, a new authority is made,
the old certificates stay trusted, and nothing that still works is replaced at once. The key never leaves the
operator's namespace. `renewed` makes keys; everything else is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFE = timedelta(days=3 * 365)
OVERLAP = timedelta(days=1)
SKEW = timedelta(minutes=5)
"""How far clocks may differ: certificates begin that much earlier."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, PEM."""

    certificate: str
    key: str

    def __repr__(self) -> str:
        return "KeyPair(…)"

    @property
    def parsed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())

    @property
    def due(self) -> datetime:
        """When it is to be replaced: two thirds of its life."""
        return due(self.parsed)


@dataclass(frozen=True, slots=True)
class Authority:
    """What the CA Secret holds.

    Attributes:
        signer: signs now.
        following: trusted already, signs after `OVERLAP`; None when no change is under way.
        retired: certificates (PEM) still trusted, whose keys are gone.
    """

    signer: KeyPair
    following: KeyPair | None = None
    retired: tuple[str, ...] = ()

    @property
    def bundle(self) -> str:
        """All certificates to trust, PEM; the signer's first."""
        following = (self.following.certificate,) if self.following else ()
        return "".join(_ending(text) for text in (self.signer.certificate, *following, *self.retired))

    def entries(self) -> dict[str, str]:
        """As entries of the Secret."""
        found = {"ca.crt": self.bundle, "signer.crt": self.signer.certificate, "signer.key": self.signer.key}
        if self.following:
            found |= {"next.crt": self.following.certificate, "next.key": self.following.key}
        if self.retired:
            found["retired.crt"] = "".join(self.retired)
        return found

    @classmethod
    def parse(cls, entries: Mapping[str, str]) -> Authority | None:
        """The reverse of `entries`; None when the signer is missing or spoilt."""
        signer = _pair(entries, "signer")
        if signer is None:
            return None
        return cls(signer, _pair(entries, "next"), certificates(entries.get("retired.crt", "")))


def renewed(
    authority: Authority | None, name: str, now: datetime, *, trusted: str = "", overlap: timedelta = OVERLAP
) -> Authority:
    """The authority to use from now on: the same one when nothing is due.

    Args:
        authority: as found; None when there is none (or it was lost).
        name: of the Database, for the subject.
        now: aware time.
        trusted: the public bundle as found, kept in trust when the authority was lost.
        overlap: how long a new authority is trusted before it signs.
    """
    if authority is None:
        return Authority(_new(name, now), retired=_alive(certificates(trusted), now))
    retired = _alive(authority.retired, now)
    following = authority.following
    if following is not None and now >= following.parsed.not_valid_before_utc + SKEW + overlap:
        retired = (*_alive((authority.signer.certificate,), now), *retired)
        return Authority(following, None, retired)
    if following is None and now >= authority.signer.due:
        following = _new(name, now)
    return replace(authority, following=following, retired=retired)


def due(certificate: x509.Certificate) -> datetime:
    """Two thirds of the life of a certificate."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def certificates(pem: str) -> tuple[str, ...]:
    """The certificates of a PEM bundle, one text each; empty for a spoilt one."""
    if not pem.strip():
        return ()
    try:
        found = x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return ()
    return tuple(c.public_bytes(serialization.Encoding.PEM).decode() for c in found)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A P-256 key out of the system's randomness."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _new(name: str, now: datetime) -> KeyPair:
    key = new_key()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "yoban"),
            x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
        ]
    )
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM).decode(), key_pem(key))


def _pair(entries: Mapping[str, str], name: str) -> KeyPair | None:
    certificate, key = entries.get(f"{name}.crt", ""), entries.get(f"{name}.key", "")
    if not certificates(certificate):
        return None
    try:
        serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):
        return None
    return KeyPair(certificate, key)


def _alive(bundle: tuple[str, ...], now: datetime) -> tuple[str, ...]:
    return tuple(pem for pem in bundle if x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc > now)


def _ending(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"
