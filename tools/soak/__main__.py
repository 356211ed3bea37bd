"""Start the soak as `python tools/soak`."""

from __future__ import annotations

import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    if sys.argv[1:2] == ["writer"]:
        from soak.writer import main
    else:
        from soak.cli import main
    sys.exit(main())
