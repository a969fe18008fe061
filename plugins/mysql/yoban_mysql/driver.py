"""The driver asyncmy, loaded when the first connection is made, and without the library that it would encrypt passwords by.

asyncmy needs `cryptography` only to send a password over a connection that is not secure, and goes without where it is not
installed. The agent's connections are the server's own socket or mutual TLS, and have no password at all; the library would
cost each agent 7 MB.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from types import ModuleType

_UNNEEDED = "cryptography.hazmat.backends"
_loading = threading.Lock()


def load() -> ModuleType:
    """Return the package `asyncmy` with its connections and errors. May be called by any thread, any number of times."""
    with _loading:
        if "asyncmy" not in sys.modules:
            barred = _UNNEEDED not in sys.modules
            if barred:
                sys.modules[_UNNEEDED] = None  # type: ignore[assignment]  # so an import of it fails, as if not installed
            try:
                importlib.import_module("asyncmy.connection")
            finally:
                if barred:
                    del sys.modules[_UNNEEDED]
            # It logs notes of the server that are none to anybody.
            logging.getLogger("asyncmy").setLevel(logging.ERROR)
        return importlib.import_module("asyncmy")
