"""Records numbers, whatever the disk does, and says of each what record() said; of its state when it is asked.

Its settings are JSON, its argument. Each line on standard input asks; the end of it is the end.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from itertools import count

from edgespool import Client
from edgespool.errors import OutcomeUnknown, QueueError

given = json.loads(sys.argv[1])
pause = given.pop("pause")
client = Client(**given)
over = threading.Event()


def listen() -> None:
    for _ in sys.stdin:
        stats = client.stats()
        print("state", json.dumps([stats.state, stats.last_error, time.process_time()]), flush=True)
    over.set()


threading.Thread(target=listen, daemon=True).start()
for number in count():
    if over.is_set():
        break
    try:
        print("stored", number, client.record("reading", number=number), flush=True)
    except OutcomeUnknown:
        print("unknown", number, flush=True)
    except QueueError as error:
        print("refused", number, type(error).__name__, flush=True)
    time.sleep(pause)
client.close(10)
print("closed", flush=True)
