"""`kubectl yoban COMMAND`: the program `kubectl-yoban` on PATH, which kubectl finds by its name."""

from __future__ import annotations

import sys

from yoban.cli.main import kubectl_main

main = kubectl_main

if __name__ == "__main__":
    sys.exit(main())
