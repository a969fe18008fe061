"""SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), so that no clear password is ever sent in a statement.

Guarantees: from the verifier the password cannot be read, and whether a verifier belongs to a password can be told.
Passwords are used as they are when SASLprep would not change them (all of ours are ASCII).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stringprep
import unicodedata

ITERATIONS = 4096

_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d{1,7}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


def verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """Return the text that the server keeps in place of the password."""
    grain = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), grain, iterations)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${iterations}:{_text(grain)}${_text(stored)}:{_text(server)}"


def belongs(kept: str | None, password: str) -> bool:
    """Tell whether the verifier that the server keeps is one of this password."""
    match = _VERIFIER.fullmatch(kept or "")
    if match is None or kept is None:
        return False
    try:
        salt = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(verifier(password, salt, int(match[1])), kept)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _prepared(password: str) -> bytes:
    """SASLprep (RFC 4013); a password that it forbids is used as it is, as the server does."""
    if password.isascii():
        return password.encode()
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    prepared = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_a1, stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3,
        stringprep.in_table_c4, stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7,
        stringprep.in_table_c8, stringprep.in_table_c9,
    )  # fmt: skip
    if not prepared or any(check(c) for c in prepared for check in forbidden):
        return password.encode()
    return prepared.encode()
