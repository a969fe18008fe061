"""The driver asyncmy, loaded when the first connection is made, and without the library that it would encrypt passwords by.

asyncmy needs `cryptography` only to send a password over a connection that is not secure, and goes without where it is not
installed. All connections of the agent are the server's own unix socket or mutual TLS, over either of which a password
goes as it is; the library would cost each agent 7 MB.
"""

from __future__ import annotations

import functools
import importlib
import logging
import sys
from types import ModuleType

_UNNEEDED = "cryptography.hazmat.backends"


@functools.cache
def load() -> ModuleType:
    """Return the package `asyncmy` with its connections and errors. May be called any number of times."""
    barred = _UNNEEDED not in sys.modules
    if barred:
        sys.modules[_UNNEEDED] = None  # type: ignore[assignment]  # so an import of it fails, as if not installed
    try:
        asyncmy = importlib.import_module("asyncmy")
    finally:
        if barred:
            del sys.modules[_UNNEEDED]
    logging.getLogger("asyncmy").setLevel(logging.ERROR)  # it logs notes of the server that are none to anybody
    return asyncmy
