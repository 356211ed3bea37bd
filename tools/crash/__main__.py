"""Start the crash-state explorer as `python tools/crash`."""

from __future__ import annotations

import os
import sys

# Processes of the pool import this file again, under another name, and find the package the same way.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    if sys.argv[1:2] == ["program"]:
        from crash.programs import main
    else:
        from crash.cli import main
    sys.exit(main())
