"""Kubernetes quantities (`500m`, `2Gi`, `1e3`) as exact numbers, so that they can be compared."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from yoban.errors import InvalidInput

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
    "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip
_FORM = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")


def amount(text: str) -> Decimal:
    """The number that a quantity means. Pure.

    Raises:
        InvalidInput: it is none.
    """
    match = _FORM.fullmatch(text.strip())
    if match is not None:
        try:
            return Decimal(match[1]) * _SUFFIXES[match[2] or ""]
        except InvalidOperation:
            pass
    raise InvalidInput(f"{text!r} is no quantity", fix="write it like 500m, 2Gi or 10G")
