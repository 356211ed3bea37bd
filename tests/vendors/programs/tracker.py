"""Tracks numbered readings by a vendor's SDK, printing each number once it is promised; for tests that kill it."""

import sys
from importlib import import_module
from itertools import count

vendor, url, path = sys.argv[1:4]
device = import_module(f"edgespool.vendors.{vendor}.device").Device(url, path=path)
for number in count():
    device.track(number)
    print(number, flush=True)
