"""Only the owner can read what a queue leaves on the disk, whatever the umask; nothing is followed or waited for."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from security_kit import command, make_queue

from edgespool import Client
from edgespool.errors import EdgespoolError, FailedFileError, QueueUnavailable
from edgespool.failed import FailedFiles, read
from edgespool.files import open_plain, open_private
from edgespool.queue import DiskQueue
from edgespool.queue.view import QueueView
from edgespool.status import SenderStatus, StatusFile
from edgespool.testing import FakeDestination

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes and links are POSIX")

# A program that makes every kind of file there is. It gives up the privileges that let root pass over modes.
EVERYTHING = """
import ctypes, glob, json, os, sqlite3, stat, sys
umask, top = int(sys.argv[1], 8), sys.argv[2]
from edgespool import Client
from edgespool.cli.app import edgespool, run
from edgespool.failed import FailedFiles
from edgespool.outcome import Reject
from edgespool.testing import Collector, FakeDestination
if sys.platform.startswith("linux"):
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
path, seen = os.path.join(top, "new", "queue"), {}

def look():
    for root, folders, files in os.walk(os.path.join(top, "new")):
        for name in (".", *folders, *files):
            where = os.path.join(root, name)
            mode = stat.S_IMODE(os.lstat(where).st_mode)
            seen.setdefault(f"{os.path.relpath(where, top)} {oct(mode)}", [os.path.isdir(where), mode])

def edit(statement):
    connection = sqlite3.connect(os.path.join(path, "queue.db"))
    connection.execute(statement)
    connection.commit()
    connection.close()

rename, replace = os.rename, os.replace
os.replace = lambda old, new: (look(), replace(old, new))  # temporary files and folders are seen here
os.rename = lambda old, new: (look(), rename(old, new))
with Collector(os.path.join(top, "collector.db")) as collector:
    os.umask(umask)
    settings = {"path": path, "source": "pi", "flush_interval": 0.0}
    collector.set_fault(status=422, times=1)
    with Client(collector.url, **settings) as client:
        client.record("a")
        while client.stats().failed < 1: pass
        look()
    with Client(collector.url, start=False, **settings) as client:
        client.record("b")
        client.record("c")
    edit("UPDATE ack_queue_default SET crc = 1 WHERE _id = (SELECT max(_id) FROM ack_queue_default)")
    export = ["export", "--path", path, "--output", os.path.join(top, "new", "export.jsonl")]
    assert run(edgespool, "edgespool", export) == 1, "one of the events is damaged"
    look()
    with Client(collector.url, durability="process", **settings) as client:
        assert client.flush(20)
        look()
    edit("UPDATE edgespool_ledger SET value = 'x' WHERE name = 'seq'")
    with Client(collector.url, **settings) as client:
        client.record("d")
        assert client.flush(20)
        look()
    os.environ["EDGESPOOL_URL"] = collector.url
    assert run(edgespool, "edgespool", ["replay", "--path", path]) == 0
    look()
    assert not FailedFiles(path).paths()
print(json.dumps(seen), file=sys.stderr)
"""


@pytest.mark.parametrize("umask", ["0", "022", "077", "0277", "0777"])
def test_every_file_is_its_owners_alone_and_usable_under_any_umask(tmp_path: Path, umask: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EVERYTHING), umask, str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stderr.splitlines()[-1])
    wrong = {name: oct(mode) for name, (folder, mode) in seen.items() if mode != (0o700 if folder else 0o600)}
    assert wrong == {}
    names = " ".join(seen)
    kinds = ("queue.db ", "queue.db-wal", "queue.db-shm", "ballast", "write.lock", "sender.lock", "replay.lock",
             ".tmp ", "sender.json",
             "failed ", "replayed ", "quarantine ", "damaged ", "export.jsonl", ".json ")  # fmt: skip
    assert [kind for kind in kinds if kind not in names] == [], "the program made every kind of file"


def test_a_directory_that_was_there_keeps_its_mode_and_the_files_are_private_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue").chmod(0o755)
    make_queue(tmp_path / "queue")
    assert stat.S_IMODE((tmp_path / "queue").stat().st_mode) == 0o755, "it is the owner's to change"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "queue").iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755, 0o750])
def test_doctor_says_when_others_can_get_at_the_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    make_queue(tmp_path / "queue")
    (tmp_path / "queue").chmod(mode)
    command("doctor", "--path", str(tmp_path / "queue"))
    said = capsys.readouterr().out
    assert "PROBLEM  permissions: other users can" in said
    assert f"chmod 700 {tmp_path / 'queue'}" in said
    (tmp_path / "queue").chmod(0o700)
    command("doctor", "--path", str(tmp_path / "queue"))
    assert "permissions: only the owner can read and write" in capsys.readouterr().out


# Links


def test_a_queue_file_that_is_a_link_is_refused_and_its_end_is_left_alone(tmp_path: Path) -> None:
    make_queue(tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere" / "queue.db").read_bytes()
    (tmp_path / "queue").mkdir(mode=0o700)
    for target in (tmp_path / "elsewhere" / "queue.db", tmp_path / "nothing"):
        link = tmp_path / "queue" / "queue.db"
        link.symlink_to(target)
        for look in (DiskQueue, lambda path: QueueView(str(path))):
            with pytest.raises(QueueUnavailable, match=r"plain file|No such file"):
                look(tmp_path / "queue")
        link.unlink()
    assert not (tmp_path / "nothing").exists()
    assert (tmp_path / "elsewhere" / "queue.db").read_bytes() == before


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "queue").symlink_to(tmp_path / "disk")
    make_queue(tmp_path / "queue")
    assert (tmp_path / "disk" / "queue.db").is_file()


@pytest.mark.parametrize(
    "name", ["write.lock", "sender.lock", "ballast", "failed/x.json.{pid}.tmp", "sender.json.{pid}.tmp"]
)
def test_a_name_that_leads_elsewhere_is_not_written_through(tmp_path: Path, name: str) -> None:
    """In a directory that others can write to, somebody may have laid such a trap."""
    from edgespool.files import write_whole

    precious = tmp_path / "precious"
    precious.write_text("mine")
    queue = tmp_path / "queue"
    (queue / "failed").mkdir(parents=True)
    trap = queue / name.format(pid=os.getpid())
    trap.symlink_to(precious)
    with Client(path=queue, destination=FakeDestination(), start=False) if "lock" not in name else _Nothing() as client:
        if client is not None:
            client.record("a")
        for act in (
            lambda: write_whole(str(queue / "failed" / "x.json"), b"other"),
            lambda: StatusFile(str(queue)).write(SenderStatus(1, "ok", 1.0)),
            lambda: DiskQueue(queue).close(),
        ):
            try:
                act()
            except (OSError, EdgespoolError):
                pass
    assert precious.read_text() == "mine"


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def test_a_folder_of_failed_files_may_be_a_link(tmp_path: Path) -> None:
    make_queue(tmp_path / "queue")
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "queue" / "failed").symlink_to(tmp_path / "big-disk")
    queue = DiskQueue(tmp_path / "queue")
    batch = queue.lease(10, 1 << 20)
    assert batch is not None
    path = FailedFiles(str(tmp_path / "queue")).write(
        batch, lambda event: event.payload, format="json", endpoint="", reason="", status=400, attempts=1, now=1.0
    )
    queue.close()
    assert [each.name for each in (tmp_path / "big-disk").iterdir()] == [Path(path).name]
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600


# What is no file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, endless, Path.mkdir], ids=["a pipe", "a device without end", "a directory"])
@pytest.mark.parametrize(
    "name", ["queue.db", "sender.json", "failed/x.json", "write.lock", "sender.lock", "ballast", "queue.db-wal"]
)
def test_what_only_pretends_to_be_a_file_makes_nobody_wait(
    tmp_path: Path, make: Callable[[Path], None], name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    make_queue(tmp_path / "queue")
    (tmp_path / "queue" / "failed").mkdir()
    (tmp_path / "queue" / name).unlink(missing_ok=True)
    make(tmp_path / "queue" / name)
    began = time.monotonic()
    if name.startswith("failed"):
        with pytest.raises(FailedFileError):
            read(str(tmp_path / "queue" / name))
    StatusFile(str(tmp_path / "queue")).read()
    for name in ("status", "doctor", "peek"):
        command(name, "--path", str(tmp_path / "queue"))
    assert "Traceback" not in capfd.readouterr().err
    try:
        with Client(path=tmp_path / "queue", destination=FakeDestination()) as client:
            client.record("a")
            client.flush(0.5)
    except EdgespoolError:
        pass
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("name", ["a pipe", "/dev/zero", "a directory"])
@pytest.mark.parametrize("write", [False, True], ids=["to read", "to write"])
def test_what_is_no_plain_file_is_not_used_as_one(tmp_path: Path, name: str, write: bool) -> None:
    path = tmp_path / name if "/" not in name else Path(name)
    if name == "a pipe":
        os.mkfifo(path)
    elif name == "a directory":
        path.mkdir()
    before = os.dup(0)
    os.close(before)
    with pytest.raises(OSError, match=r"plain file|Is a directory"):
        open_private(str(path), os.O_RDWR) if write else open_plain(str(path))
    after = os.dup(0)
    os.close(after)
    assert after == before, "and is not left open"


def test_a_lock_file_that_somebody_empties_does_not_kill_the_program(tmp_path: Path) -> None:
    program = """
        import sys, os
        from edgespool import Client
        from edgespool.testing import FakeDestination
        with Client(path=sys.argv[1], destination=FakeDestination()) as client:
            for number in range(3):
                client.record("a")
                os.truncate(os.path.join(sys.argv[1], "write.lock"), number)
                client.record("b")
            assert client.flush(10)
            print(client.stats().delivered)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "queue")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "6\n", "")
