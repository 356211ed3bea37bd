"""Keeps a queue open and does what it reads on stdin, one line an order."""

from __future__ import annotations

import json
import sys

from faults_kit import record

from edgespool.queue import DiskQueue

queue = DiskQueue(sys.argv[1])
for line in sys.stdin:
    what, *names = line.split()
    if what == "record":
        queue.append([record(name) for name in names])
        print("recorded", *names, flush=True)
    elif what == "list":
        found: list[str] = []
        while (batch := queue.lease(100, 1 << 30)) is not None:
            found += batch.ids
        print(json.dumps(found), flush=True)
    elif what == "close":
        queue.close()
        print("closed", flush=True)
