"""The processes of `edgespool demo`: a server, a device, and what goes wrong with them. Prints nothing.

They are the commands that everybody has: the server is `edgespool collector`, the device is a pipe of readings into
`edgespool send - --wait`, or into a vendor's SDK, and the repair is `replay-failed`. Each id (of a vendor's SDK, each
number) that the device prints is taken for a promise.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from ..errors import EdgespoolError, QueueError
from .status import gather

if TYPE_CHECKING:
    from ..vendors.common import Device

__all__ = ["Stage", "StageError"]

_START = 30.0  # seconds that a process may take to start; a Pi Zero needs several
_POISON = "bad-reading"
_BAD_NUMBER = 1_000_000  # of a vendor's device


class StageError(EdgespoolError):
    """A process of the demo did not do its part."""


class Stage:
    """The processes, and what is known of them. Use it as a context manager: at its end all of them are gone.

    Args:
        home: a directory for everything, emptied by the caller.
        rate: readings a second.
        vendor: whose SDK the device uses; None: our own command.
    """

    def __init__(self, home: str, rate: float, vendor: str | None = None) -> None:
        self._vendor = vendor
        self._sdk: type[Device] | None = None
        if vendor is not None:
            self._sdk = import_module(f"edgespool.vendors.{vendor}.device").Device
        self.queue = os.path.join(home, "queue")
        self.promised: list[str] = []  # the ids that the device printed
        self.delivered = self.repeats = 0  # as the server last counted
        self._home = home
        self._pause = 1.0 / rate
        self._port = 0
        self._server: subprocess.Popen[bytes] | None = None
        self._device: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._pump: threading.Thread | None = None
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._number = 0
        self._complaints = os.path.join(home, "complaints.txt")
        empty = os.path.join(home, "settings.toml")
        with open(empty, "wb"):
            pass
        # The user's own settings and proxies must not reach in.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGESPOOL_")}
        self._environment |= {
            "EDGESPOOL_CONFIG": empty,
            "EDGESPOOL_FLUSH_INTERVAL": "0.2",
            "EDGESPOOL_SOURCE": "demo-device",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHONUNBUFFERED": "1",
        }
        if self._sdk is not None and self._sdk.auth is not None:
            self._environment["EDGESPOOL_AUTH"] = self._sdk.auth

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs, and wait until it is gone."""
        self._over.set()
        for process in (self._device, self._server):
            if process is not None:
                process.kill()
                process.wait()
        for thread in (self._pump, self._reader):  # before what they read is closed
            if thread is not None:
                thread.join(5)
        for process in (self._device, self._server):
            _end(process)

    def _failure(self, what: str) -> StageError:
        """Return the error for a process that failed, with the last thing any of them said."""
        with open(self._complaints, encoding="utf-8", errors="replace") as file:
            said = file.read().strip().splitlines()[-1:]
        return StageError(": ".join([f"the demo's {what}", *said]))

    # --- the server -------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where the device sends."""
        return f"{self._base}/v1/events"

    @property
    def _base(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start_server(self, *options: str) -> int:
        """Start the server, on the port and with the data it had before; return its process id."""
        data = os.path.join(self._home, "server.db")
        command = ["-m", "edgespool", "collector", "--port", str(self._port), "--path", data, "--json", "--until-eof"]
        self._server = process = self._run([*command, *options])
        assert process.stdout is not None
        line = _first_line(process, process.stdout)
        if not line.endswith(b"\n"):
            raise self._failure("server did not start")
        self._port = int(json.loads(line)["url"].rsplit(":", 1)[1].split("/")[0])
        threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
        return process.pid

    def kill_server(self) -> None:
        """Kill the server where it stands."""
        _end(self._server)
        self._server = None

    def poison(self) -> None:
        """Let the server refuse every batch with a bad reading in it."""
        rule = {"name": _POISON} if self._sdk is None else self._sdk.poison(_BAD_NUMBER)
        self._ask("POST", "faults", {"poison": rule})

    def heal(self) -> None:
        """Let the server take everything."""
        self._ask("DELETE", "faults")

    def look(self) -> None:
        """Ask the server for its counts, if it is up."""
        if self._server is not None:
            with contextlib.suppress(StageError):
                counts = self._ask("GET", "stats")
                self.delivered, self.repeats = counts["unique"], counts["repeats"]

    def arrived(self) -> set[str]:
        """Return the ids of all events that the server has."""
        found: set[str] = set()
        seen = 0
        while True:
            page = self._ask("GET", f"events?limit=1000&offset={seen}")
            seen += len(page["events"])
            found.update(name for event in page["events"] if (name := self._name_of(event)) is not None)
            if not page["events"] or seen >= page["total"]:
                return found

    def _name_of(self, event: dict[str, Any]) -> str | None:
        """Return by what the device has promised an event; None for what it did not record itself."""
        if self._sdk is None:
            return str(event["id"])
        number = self._sdk.number_of(event["event"])
        return None if number is None else str(number)

    def _ask(self, method: str, what: str, content: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            body = json.dumps(content) if content is not None else None
            connection.request(method, f"/_collector/{what}", body)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StageError(f"the demo's server does not answer: {error}") from error
        finally:
            connection.close()

    # --- the device -------------------------------------------------------------------------------------------------

    @property
    def _sending(self) -> list[str]:
        if self._vendor is not None:
            return ["-m", "edgespool.cli.demo_device", self._vendor, self._base, self.queue]
        return ["-m", "edgespool", "send", "-", "--wait", "5", "--url", self.url, "--path", self.queue]

    def start_device(self) -> int:
        """Start the device, and readings at a steady rate; return its process id."""
        self._device = process = self._run(self._sending)
        assert process.stdout is not None
        self._reader = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        self._reader.start()
        if self._pump is None:
            self._pump = threading.Thread(target=self._feed, daemon=True)
            self._pump.start()
        known = len(self.promised)
        deadline = time.monotonic() + _START
        while len(self.promised) == known:
            if process.poll() is not None or time.monotonic() > deadline:
                raise self._failure("device did not start")
            time.sleep(0.02)
        return process.pid

    def kill_device(self) -> int:
        """Kill the device with SIGKILL while it writes as fast as it can; return how many ids it had printed."""
        process, reader = self._device, self._reader
        assert process is not None
        assert reader is not None
        self._device = None
        known = len(self.promised)
        burst = threading.Thread(target=self._burst, args=(process,), daemon=True)
        burst.start()
        deadline = time.monotonic() + 5
        while len(self.promised) < known + 100 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.kill()
        process.wait()
        reader.join(5)  # what it printed before it died still stands
        burst.join(5)
        _close(process)
        return len(self.promised)

    @property
    def bad(self) -> int:
        """How many bad readings there will be: of a vendor's, one rule of the server's can name one number."""
        return 3 if self._sdk is None else 1

    def spoil(self) -> None:
        """Let the device record bad readings."""
        for _ in range(self.bad):
            self._write(self._device, bad=True)

    def finish_device(self) -> None:
        """Stop the readings, and wait until the device has delivered what it can."""
        process, self._device = self._device, None
        assert process is not None
        assert process.stdin is not None
        assert self._reader is not None
        with self._writing, contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_START)
        except subprocess.TimeoutExpired:
            raise self._failure("device did not come to an end") from None
        finally:
            process.kill()
            self._reader.join(5)
            _end(process)
        for _ in range(10):  # a slow board may not manage it in the time that the device has to say goodbye
            if not self.pending()[0]:
                return
            process = self._run(self._sending)
            try:
                process.communicate(b"", timeout=_START)
            finally:
                _end(process)

    def pending(self) -> tuple[int, int]:
        """Return how many events wait on the device's disk, and how many the server has refused."""
        try:
            found = gather(self.queue)
        except QueueError:
            return 0, 0
        return found["pending"], found["failed"]

    def replay(self) -> int:
        """Run `replay-failed` to its end; return how many events it delivered."""
        url = self.url if self._vendor is None else self._base
        process = self._run(["-m", "edgespool", "replay", "--json", "--url", url, "--path", self.queue])
        try:
            output, _ = process.communicate(timeout=60)
            return int(json.loads(output)["delivered"])
        except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
            raise self._failure("replay-failed did not do its part") from error
        finally:
            _end(process)

    # --- within -----------------------------------------------------------------------------------------------------

    def _run(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is for us, and we end the others. Should we die, each of them sees the end of
        # its input.
        with open(self._complaints, "ab") as complaints:
            return subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=self._environment,
                start_new_session=True,
            )

    def _listen(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            for line in stream:
                if line.endswith(b"\n"):
                    self.promised.append(line.strip().decode())

    def _feed(self) -> None:
        while not self._over.wait(self._pause):
            self._write(self._device)

    def _burst(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None and self._write(process):
            pass

    def _write(self, process: subprocess.Popen[bytes] | None, bad: bool = False) -> bool:
        if process is None or process.stdin is None:
            return False
        with self._writing:
            self._number += 1
            reading: Any = _BAD_NUMBER if bad else self._number
            if self._sdk is None:
                name = _POISON if bad else "temperature"
                reading = {"name": name, "data": {"value": 20 + self._number % 50 / 10, "number": self._number}}
            try:
                process.stdin.write(json.dumps(reading).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it is gone, or its input was closed
                return False
        return True


def _first_line(process: subprocess.Popen[bytes], stream: IO[bytes]) -> bytes:
    timer = threading.Timer(_START, process.kill)
    timer.start()
    try:
        return stream.readline()
    finally:
        timer.cancel()


def _drain(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while stream.read(65536):
            pass


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
        _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.close()
