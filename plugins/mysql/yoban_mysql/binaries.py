"""Where the server's program is in an image.

Guarantees an absolute path. The image's own PATH goes first, then the folders that distributions use.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from yoban.errors import NotFound

PLACES = ("/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin", "/usr/local/mysql/bin", "/usr/libexec")


def server() -> str:
    """Return the path of the server's program.

    Raises:
        NotFound: the image has none.
    """
    found = shutil.which("mysqld", path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))
    if found is None:
        raise NotFound(
            "the image has no MySQL server",
            object="MySQL",
            cause="no program `mysqld` in any known place",
            fix="choose an image of MySQL",
            reason="WrongImage",
        )
    return str(Path(found).absolute())
