"""The device of `edgespool demo --vendor NAME`: a vendor's SDK that tracks the numbers on standard input.

Each number is printed once the SDK's call has returned: from then on it is promised. Run as
``python -m edgespool.cli.demo_device VENDOR URL QUEUE``.
"""

from __future__ import annotations

import sys
from importlib import import_module

from ..vendors.common import Device

__all__ = ["main"]


def main(vendor: str, url: str, path: str) -> None:
    """Track what comes in until standard input ends, then close the SDK."""
    factory: type[Device] = import_module(f"edgespool.vendors.{vendor}.device").Device
    device = factory(url, path=path)
    for line in sys.stdin:
        device.track(int(line))
        print(line.strip(), flush=True)
    device.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
