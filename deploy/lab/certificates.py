"""A certificate authority of the lab, and certificates from it, made by the openssl program.

Guarantees keys of mode 0600 on P-256, ten years of validity, and that a certificate that is there is kept.
Does not renew, revoke or check anything.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.process import run

_DAYS = "3650"
_making = threading.Lock()  # nodes that start at once ask for the same certificates


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A CA in a folder: `ca.crt`, `ca.key`, and what it issued. Making the same thing twice keeps the first."""

    def __init__(self, folder: Path, name: str = "yoban-lab"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        extensions = (
            "basicConstraints = critical, CA:TRUE\n"
            "keyUsage = critical, keyCertSign, cRLSign\n"
            "subjectKeyIdentifier = hash"
        )
        self._make(Certificate(self.certificate, self.key), [("CN", name)], extensions, signed=False)

    def issue(
        self, name: str, common_name: str, *, groups: Sequence[str] = (), addresses: Sequence[str] = ()
    ) -> Certificate:
        """A certificate for client and, when `addresses` (DNS names and IPs) are given, server use, as `<name>.crt`.

        `groups` become organizations, which the API server reads as groups.
        """
        made = Certificate(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        usage = "clientAuth, serverAuth" if addresses else "clientAuth"
        extensions = (
            "basicConstraints = critical, CA:FALSE\n"
            "keyUsage = critical, digitalSignature\n"
            f"extendedKeyUsage = {usage}\n"
            "subjectKeyIdentifier = hash\nauthorityKeyIdentifier = keyid"
        )
        if addresses:
            extensions += f"\nsubjectAltName = {', '.join(_alternative(a) for a in addresses)}"
        self._make(made, [*(("O", group) for group in groups), ("CN", common_name)], extensions, signed=True)
        return made

    def signing_key(self, name: str) -> tuple[Path, Path]:
        """A key pair that is no certificate (service account tokens): paths of the private and the public key."""
        private, public = self.folder / f"{name}.key", self.folder / f"{name}.pub"
        if not public.exists():
            run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private])
            private.chmod(0o600)
            part = public.with_suffix(".part")
            run(["openssl", "ec", "-in", private, "-pubout", "-out", part])
            part.rename(public)
        return private, public

    def _make(self, made: Certificate, subject: list[tuple[str, str]], extensions: str, *, signed: bool) -> None:
        with _making:
            if not (made.certificate.exists() and made.key.exists()):
                self._request(made, subject, extensions, signed=signed)

    def _request(self, made: Certificate, subject: list[tuple[str, str]], extensions: str, *, signed: bool) -> None:
        # Two organizations need numbered names in openssl's configuration.
        names = "\n".join(f"{number}.{key} = {value}" for number, (key, value) in enumerate(subject))
        config = made.certificate.with_suffix(".cnf")
        config.write_text(
            f"[req]\nprompt = no\ndistinguished_name = subject\nx509_extensions = extensions\n"
            f"[subject]\n{names}\n[extensions]\n{extensions}\n"
        )
        part = made.certificate.with_suffix(".part")
        issuer: list[str | Path] = ["-CA", self.certificate, "-CAkey", self.key] if signed else []
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
        descriptor = os.open(made.key, os.O_WRONLY | os.O_CREAT, 0o600)
        os.close(descriptor)
        files: list[str | Path] = ["-keyout", made.key, "-out", part]
        run(["openssl", "req", "-x509", "-config", config, *curve, "-days", _DAYS, *issuer, *files])
        made.key.chmod(0o600)
        config.unlink()
        part.rename(made.certificate)


def _alternative(address: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(address)}"
    except ValueError:
        return f"DNS:{address}"
