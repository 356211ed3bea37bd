"""A queue belongs to one account: what was recorded for one never goes out with another's credentials."""

from __future__ import annotations

import base64
import contextlib
import errno
import gc
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

import edgespool
from edgespool import Client
from edgespool.cli.app import edgespool as command
from edgespool.cli.app import run
from edgespool.client import _clients
from edgespool.errors import ConfigError, QueueUnavailable
from edgespool.queue.view import QueueView
from edgespool.testing import Collector
from edgespool.vendors import common
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.paltabrain.example import Context

NOBODY = "http://127.0.0.1:9/"
Open = Callable[..., Client]


@pytest.fixture(autouse=True)
def _an_environment_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("EDGESPOOL_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("EDGESPOOL_DIR", str(tmp_path / "queues"))
    monkeypatch.setattr(sys, "argv", ["sensors.py"])
    yield
    for client in list(_clients):
        client.close(0)


@pytest.fixture
def restart(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Forget what one process knows; at the end, too."""

    def forget() -> None:
        for client in list(_clients):
            client.close(0)
        common._accounts.clear()

    forget()
    yield forget
    forget()


def opened(account: str) -> str:
    """Open the queue of an account, record an event, and return the name of the queue."""
    client = common.open_client("samsara", account, NOBODY, start=False)
    client.record("reading")
    return Path(client.directory).name


def test_each_account_finds_its_own_queue_again_whichever_comes_first(restart: Callable[[], None]) -> None:
    first, second = opened("a"), opened("b")
    assert first == "sensors.samsara" != second
    restart()
    assert (opened("b"), opened("a")) == (second, first)
    restart()
    assert (opened("c"), opened("a"), opened("b")) == (opened("c"), first, second)
    assert len({first, second, opened("c")}) == 3


def test_a_new_key_takes_over_what_waits_and_says_so(
    restart: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    name = opened("old")
    restart()
    with caplog.at_level(logging.WARNING, "edgespool"):
        assert opened("new") == name
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("1 event(s) in ")
    assert "edgespool deliver" in said
    restart()
    caplog.clear()
    assert opened("new") == name
    assert not caplog.records


def test_a_new_key_of_an_empty_queue_is_no_news(
    restart: Callable[[], None], caplog: pytest.LogCaptureFixture, collector: Collector
) -> None:
    with common.open_client("samsara", "old", collector.base_url) as client:
        client.record("reading")
        assert client.flush(10)
    restart()
    with caplog.at_level(logging.WARNING, "edgespool"):
        assert opened("new") == "sensors.samsara"
    assert not caplog.records


def test_two_programs_of_one_name_and_two_accounts_do_not_meet(
    restart: Callable[[], None], collector: Collector
) -> None:
    opened("a")
    restart()
    place = os.path.join(os.environ["EDGESPOOL_DIR"], "sensors.samsara")
    with Client(collector.base_url, path=place, format="samsara") as other:  # as another process would have it
        other.record("reading")
        assert other.flush(10)
        assert opened("b") != "sensors.samsara"


def test_what_says_whose_it_is_tells_nothing_of_the_key(restart: Callable[[], None]) -> None:
    opened("a very secret key")
    file = Path(os.environ["EDGESPOOL_DIR"]) / "sensors.samsara" / "account"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "secret" not in file.read_text()
    before = json.loads(file.read_text())
    file.unlink()
    restart()
    opened("a very secret key")
    assert json.loads(file.read_text())["digest"] != before["digest"], "salted"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"salt": "zz", "digest": 5}', b"\xff" * 5000, b"null"])
def test_a_damaged_one_is_made_anew(restart: Callable[[], None], damage: bytes) -> None:
    name = opened("a")
    file = Path(os.environ["EDGESPOOL_DIR"]) / name / "account"
    file.write_bytes(damage)
    restart()
    assert opened("a") == name
    restart()
    assert opened("a") == name
    assert json.loads(file.read_text())["digest"]


def test_events_go_out_with_the_key_they_were_recorded_with(restart: Callable[[], None], collector: Collector) -> None:
    for bucket, key in (("a", "key-one"), ("b", "key-two")):
        Streamer(bucket, bucket, key, url=NOBODY).log("bucket", bucket)
    restart()
    for bucket, key in (("d", "key-two"), ("c", "key-one")):
        streamer = Streamer(bucket, bucket, key, url=collector.base_url)
        streamer.log("bucket", bucket)
        assert streamer._client.flush(10)
    keys = {each.headers["X-IS-BucketKey"]: each.headers["X-IS-AccessKey"] for each in collector.requests()}
    assert keys == {"a": "key-one", "b": "key-two", "c": "key-one", "d": "key-two"}


# Between processes

#: Opens, in each directory that it is told of, the queue of an account, logs a reading, and says where it is.
PROGRAM = """
import os, sys
from edgespool.vendors.initialstate.api import Streamer
from edgespool.vendors.paltabrain.example import Context

key, url = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    os.environ["EDGESPOOL_DIR"] = line.strip()
    bucket = f"{key}-{os.path.basename(line.strip())}"
    streamer = Streamer(bucket, bucket, key, url=url)
    streamer.log("reading", 1)
    print(os.path.basename(streamer._client.directory), flush=True)
    if not url.endswith(":9/"):
        streamer._client.flush(20)
"""

#: Holds a queue with a client that does not send, until its input ends or it is told to close the client.
HOLDER = """
import sys
from edgespool.vendors import common

client = common.open_client("samsara", "a", "http://127.0.0.1:9/", start=False, **eval(sys.argv[1]))
client.record("reading")
print("holds", flush=True)
sys.stdin.readline()
client.close(0)
print("closed", flush=True)
sys.stdin.readline()
"""


class Process:
    """A Python process that is talked to line by line."""

    def __init__(self, place: Path, program: str, *arguments: str) -> None:
        file = place / "sensors.py"
        file.write_text(program)
        self._popen = subprocess.Popen(
            [sys.executable, str(file), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(edgespool.__file__).parents[1])},
        )  # fmt: skip

    def tell(self, line: str = "") -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n")
        self._popen.stdin.flush()

    def hear(self) -> str:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for stream in (self._popen.stdin, self._popen.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def test_two_processes_that_start_together_with_two_keys_never_share_a_queue(
    tmp_path: Path, collector: Collector
) -> None:
    rounds = [tmp_path / f"round{number}" for number in range(8)]
    with (
        Process(tmp_path, PROGRAM, "key-one", collector.base_url) as one,
        Process(tmp_path, PROGRAM, "key-two", collector.base_url) as two,
    ):
        assert one.hear() == two.hear() == "ready"
        for place in rounds:
            for process in (one, two):
                process.tell(str(place))
            names = {one.hear(), two.hear()}
            assert "sensors.initialstate" in names
            assert len(names) == 2
        assert collector.wait_for(2 * len(rounds), 30)
    sent = {each.headers["X-IS-BucketKey"]: each.headers["X-IS-AccessKey"]
            for each in collector.requests() if "X-IS-BucketKey" in each.headers}  # fmt: skip
    assert sent == {f"{key}-{place.name}": key for key in ("key-one", "key-two") for place in rounds}


def test_two_processes_that_start_together_with_one_key_share_a_queue(tmp_path: Path) -> None:
    with Process(tmp_path, PROGRAM, "key", NOBODY) as one, Process(tmp_path, PROGRAM, "key", NOBODY) as two:
        assert one.hear() == two.hear() == "ready"
        for number in range(8):
            for process in (one, two):
                process.tell(str(tmp_path / f"round{number}"))
            assert {one.hear(), two.hear()} == {"sensors.initialstate"}


def test_the_last_of_several_processes_of_an_account_keeps_the_queue(tmp_path: Path) -> None:
    path = str(tmp_path / "queue")
    with Process(tmp_path, HOLDER, repr({"path": path})) as first:
        assert first.hear() == "holds"
        with Process(tmp_path, HOLDER, repr({"path": path})) as second:
            assert second.hear() == "holds"
            first.kill()
            with pytest.raises(ConfigError):
                common.open_client("samsara", "b", NOBODY, start=False, path=path)
    common.open_client("samsara", "b", NOBODY, start=False, path=path).close(0)


def test_a_client_of_another_process_that_does_not_send_keeps_its_queue(tmp_path: Path) -> None:
    with Process(tmp_path, HOLDER, "{}") as process:
        assert process.hear() == "holds"
        assert opened("b").startswith("sensors.samsara.")
        assert opened("a") == "sensors.samsara", "of one account any number may"


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_a_path_is_refused_while_another_account_is_there_and_not_longer(
    tmp_path: Path, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "queue")
    with Process(tmp_path, HOLDER, repr({"path": path})) as process:
        assert process.hear() == "holds"
        before = descriptors()
        with pytest.raises(ConfigError, match="takes the events of another account"):
            common.open_client("samsara", "b", NOBODY, start=False, path=path)
        assert descriptors() == before
        if end == "closed":
            process.tell()
            assert process.hear() == "closed"
        else:
            process.kill()
        with caplog.at_level(logging.WARNING, "edgespool"):
            common.open_client("samsara", "b", NOBODY, start=False, path=path).close(0)
        assert [record.getMessage()[:10] for record in caplog.records] == ["1 event(s)"]


def test_a_forked_child_keeps_the_queue_of_a_parent_that_has_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "queue")
    client = common.open_client("samsara", "a", NOBODY, start=False, path=path)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:  # does nothing but live
        os.close(theirs)
        os.read(ours, 1)
        os._exit(0)
    os.close(ours)
    client.close(0)
    with pytest.raises(ConfigError):
        common.open_client("samsara", "b", NOBODY, start=False, path=path)
    os.close(theirs)
    os.waitpid(child, 0)
    common.open_client("samsara", "b", NOBODY, start=False, path=path).close(0)


# What holds a queue


def descriptors(name: str = "") -> int:
    """Return how many files of that name this process has open; all of them if none is given."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own
            found += os.readlink(f"/proc/self/fd/{number}").endswith(name)
    return found


def test_no_descriptor_is_left_whether_a_client_is_closed_or_dropped_or_never_came_to_be(tmp_path: Path) -> None:
    opened("warm-up")
    for client in list(_clients):
        client.close(0)
    gc.collect()
    before = descriptors()
    for ending in ("closed", "failed", "dropped"):
        if ending == "dropped":  # the queue's own files are never closed by a finalizer
            assert descriptors() == before
        for _ in range(3):
            path = str(tmp_path / ending)
            if ending == "failed":
                with pytest.raises(ConfigError):
                    common.open_client("samsara", "a", NOBODY, path=path, batch_size=0)
                continue
            client = common.open_client("samsara", "a", NOBODY, start=False, path=path)
            assert descriptors("account.users") == 1
            if ending == "closed":
                client.close(0)
            del client
            gc.collect()
            assert descriptors("account.users") == 0
    assert {stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "closed").iterdir()} == {0o600}


def test_a_client_that_closes_in_the_midst_of_a_request_holds_the_queue_until_its_thread_is_done(
    tmp_path: Path,
) -> None:
    asked, answer = Event(), Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.set()
            answer.wait(30)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        client = common.open_client("samsara", "a", url, path=str(tmp_path / "queue"))
        client.record("reading")
        client.send_now()
        assert asked.wait(30)
        client.close(0)
        assert client.closed
        assert descriptors("account.users") == 1
        with pytest.raises(ConfigError):
            common.open_client("samsara", "b", url, path=str(tmp_path / "queue"))
        answer.set()
        client._worker._thread.join(30)
        assert descriptors("account.users") == 0
    finally:
        answer.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


def test_nothing_is_held_while_the_disk_is_away_and_what_was_taken_over_meanwhile_is_left_alone(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue"
    client = common.open_client("samsara", "a", NOBODY, start=False, path=str(path))
    client._queue._store._let_go()  # as when the disk takes no writes: it may then be unmounted
    assert descriptors("account.users") == 0
    client.record("reading")
    assert descriptors("account.users") == 1
    client._queue._store._let_go()
    with Process(tmp_path, HOLDER.replace('"a"', '"b"'), repr({"path": str(path)})) as process:
        assert process.hear() == "holds"
        with pytest.raises(QueueUnavailable):
            client.record("reading")
        with QueueView(str(path)) as view:
            assert view.ledger().accepted == 2, "one of each"
        assert descriptors("account.users") == 0


def test_a_takeover_that_cannot_be_written_down_leaves_no_word_of_the_former_account(
    restart: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "queue")
    common.open_client("samsara", "a", NOBODY, start=False, path=path).close(0)

    def full(path: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(common, "write_whole", full)
    common.open_client("samsara", "b", NOBODY, start=False, path=path)
    monkeypatch.undo()
    with Process(tmp_path, HOLDER, repr({"path": path})) as process:
        assert process.hear() == "", "it is refused"


def test_commands_that_look_at_a_held_queue_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "queue")
    with Process(tmp_path, HOLDER, repr({"path": path})) as process:
        assert process.hear() == "holds"
        for name in ("status", "doctor", "peek"):
            with contextlib.suppress(SystemExit):
                run(command, "edgespool", [name, "--path", path])
        said = capsys.readouterr()
    assert "account" not in said.out + said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("setting", ["EDGESPOOL_NAME", "keyword"])
def test_a_name_of_ones_own_is_one_accounts_too(
    restart: Callable[[], None], monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    given = {"name": "kitchen"} if setting == "keyword" else {}
    if not given:
        monkeypatch.setenv(setting, "kitchen")
    places = [common.open_client("samsara", who, NOBODY, start=False, **given).directory for who in ("a", "b", "a")]
    assert [Path(place).name for place in places[::2]] == ["kitchen", "kitchen"]
    assert Path(places[1]).name.startswith("kitchen.")


def test_what_is_apart_within_an_account_shares_a_path(restart: Callable[[], None], tmp_path: Path) -> None:
    for apart in ("x", "y"):
        common.open_client("samsara", "a", NOBODY, apart=apart, path=tmp_path / "queue", start=False)
    with pytest.raises(ConfigError, match="another account"):
        common.open_client("samsara", "b", NOBODY, path=tmp_path / "queue", start=False)


@pytest.mark.parametrize(
    ("front", "wrong", "meant"),
    [("samsara.api.SamsaraClient", "publish_intervall", "publish_interval"),
     ("atom.api.IronSourceAtomTracker", "batch_bytes_sise", "batch_bytes_size"),
     ("initialstate.api.Streamer", "bucket_nme", "bucket_name"),
     ("panoply.api.SDK", "apisecrett", "apisecret"),
     ("paltabrain.api.PaltabrainSdk", "flush_buffer_sise", "flush_buffer_size")],
)  # fmt: skip
def test_a_mistyped_option_is_answered_with_the_one_that_was_meant(
    restart: Callable[[], None], front: str, wrong: str, meant: str
) -> None:
    module, _, name = front.rpartition(".")
    made: Any = getattr(import_module(f"edgespool.vendors.{module}"), name)
    form = base64.b64encode(b"r/uuid-uuid/123456789012/us-east-1").decode()
    arguments = {"SDK": ("a/1", form), "PaltabrainSdk": (NOBODY, "key", Context())}.get(name, ())
    with pytest.raises(Exception, match=f"did you mean '{meant}'"):
        made(*arguments, **{wrong: 1}, **({"url": NOBODY} if name == "SamsaraClient" else {}))


def test_a_warning_is_seen_by_a_program_without_logging(collector: Collector, tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from edgespool.vendors.initialstate.api import Streamer
        streamer = Streamer("b", "b", "a-key", url=sys.argv[1])
        streamer.log("n", 1)
        end = time.monotonic() + 30
        while streamer._client.stats().state != "held" and time.monotonic() < end:
            time.sleep(0.01)
        streamer.close()
    """
    collector.set_fault(status=401)
    for before, seen in (("", True), ("import logging; logging.basicConfig(level=50)\n", False)):
        done = subprocess.run(
            [sys.executable, "-c", before + code, collector.base_url],
            capture_output=True, check=True, text=True, timeout=60, cwd=tmp_path,
        )  # fmt: skip
        assert done.stdout == ""
        assert ("delivery is on hold" in done.stderr) is seen
        assert "a-key" not in done.stderr
