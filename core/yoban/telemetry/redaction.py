"""Keeps secrets out of what people read.

Guarantees that a value given to `remember` is masked in every log line from then on, and that the usual shapes of secrets
are masked without being told: passwords in URIs, `password=…` and its like, private keys, bearer tokens. Does not
guarantee to know a secret of another shape that nobody remembered; therefore secrets are not put into messages at all.
"""

from __future__ import annotations

import re
import threading

MASK = "***"
SHORTEST = 6
"""Values shorter than this are not remembered: masking every `a` in the logs would hide more than it protects."""

_SHAPES = (
    # A URI's password: everything between `user:` and the last `@` before the path.
    (re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:)[^\s'\"/]+(?=@)", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (
        re.compile(r"-----BEGIN (?P<kind>[A-Z ]*PRIVATE KEY)-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        rf"-----BEGIN \g<kind>-----{MASK}",
    ),
    (re.compile(r"(?P<keep>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\g<keep>{MASK}"),
    (
        re.compile(
            r"(?P<keep>\b[\w-]*(?:password|passwd|secret[_-]?(?:access[_-]?)?key|secret|token|credential)"
            r"['\"]?\s*[=:]\s*)(?P<value>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s,;&'\"}\])]+)",
            re.IGNORECASE,
        ),
        rf"\g<keep>{MASK}",
    ),
)

_remembered: set[str] = set()
_lock = threading.Lock()
_pattern: re.Pattern[str] | None = None


def remember(*secrets: str) -> None:
    """Mask these values from now on, in this process. Short ones are left out; the same again changes nothing."""
    global _pattern
    with _lock:
        before = len(_remembered)
        _remembered.update(secret for secret in secrets if len(secret) >= SHORTEST)
        if len(_remembered) != before:
            # Longest first: a secret that contains another one is masked whole.
            ordered = sorted(_remembered, key=len, reverse=True)
            _pattern = re.compile("|".join(map(re.escape, ordered)))


def forget_all() -> None:
    """Remember nothing any more; for tests."""
    global _pattern
    with _lock:
        _remembered.clear()
        _pattern = None


def redact(text: str) -> str:
    """Return `text` with secrets masked. Cheap enough for every log line; never raises for a `str`."""
    if _pattern is not None:
        text = _pattern.sub(MASK, text)
    for pattern, replacement in _SHAPES:
        text = pattern.sub(replacement, text)
    return text
