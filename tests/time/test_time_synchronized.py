"""Whether the wall clock is right is the kernel's to say, and where it will not say, nobody claims that it is."""

from __future__ import annotations

import builtins
import ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edgespool.clock import SystemClock

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="adjtimex is Linux's")


class Libc:
    """Stands for the C library: `adjtimex` answers as told, and writes as much as a kernel may."""

    def __init__(self, state: int, size: int = 208) -> None:
        self.state, self.size = state, size
        self.asked: list[bytes] = []

    def adjtimex(self, timex: Any) -> int:
        self.asked.append(bytes(timex))
        ctypes.memset(timex, 0xFF, self.size)
        return self.state


@linux
@pytest.mark.parametrize(
    ("state", "right"),
    [(0, True), (1, True), (2, True), (3, True), (4, True), (5, False), (-1, False), (6, False)],
    ids=["ok", "leap second to come", "less to come", "in a leap second", "after one", "unsynchronized", "EPERM", "?"],
)
def test_the_kernels_word_is_taken(monkeypatch: pytest.MonkeyPatch, state: int, right: bool) -> None:
    libc = Libc(state)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert SystemClock().synchronized() is right
    (asked,) = libc.asked
    assert set(asked) == {0}, "a question only: `modes` is zero, and nothing is ever set"
    assert len(asked) >= 2 * 208, "room for any kernel's struct timex"


@linux
@pytest.mark.parametrize("failure", [OSError("no libc"), AttributeError("no adjtimex"), ImportError("no ctypes")])
def test_where_nobody_will_say_it_is_not_right(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def refuse(name: object) -> None:
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert SystemClock().synchronized() is False


@linux
def test_an_interpreter_without_ctypes_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name == "ctypes":
            raise ModuleNotFoundError("No module named '_ctypes'")
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert SystemClock().synchronized() is False


def test_elsewhere_it_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert SystemClock().synchronized() is False


_PEER = """
#include <stdio.h>
#include <string.h>
#include <sys/timex.h>
int main(void) { struct timex t; memset(&t, 0, sizeof t); int s = adjtimex(&t);
                 printf("%d %d", s, s != -1 && (t.status & (STA_UNSYNC | STA_CLOCKERR)) ? 1 : 0); return 0; }
"""


@linux
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to ask the kernel with")
def test_this_machine_says_what_the_c_library_says(tmp_path: Path) -> None:
    (tmp_path / "peer.c").write_text(_PEER)
    subprocess.run(["gcc", "-o", tmp_path / "peer", tmp_path / "peer.c"], check=True, capture_output=True, timeout=30)
    said = subprocess.run([tmp_path / "peer"], check=True, capture_output=True, text=True, timeout=30).stdout
    state, unsynchronized = map(int, said.split())
    assert SystemClock().synchronized() is (0 <= state < 5)
    assert (state == 5) == bool(unsynchronized), "what the state stands for"


_REFUSED = """
import ctypes, errno, struct, platform
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (0xC000003E, 159, 305), "aarch64": (0xC00000B7, 171, 266)}
arch, adjtimex, clock_adjtime = numbers[platform.machine()]
# A seccomp filter: these two calls fail with EPERM, as in a container; all others pass.
rules = [(0x20, 0, 0, 0), (0x15, 2, 0, adjtimex), (0x15, 1, 0, clock_adjtime), (0x06, 0, 0, 0x7FFF0000),
         (0x06, 0, 0, 0x00050000 | errno.EPERM)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]
program = Program(len(rules), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
if libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:
    raise SystemExit(77)
assert libc.adjtimex(ctypes.create_string_buffer(512)) == -1 and ctypes.get_errno() == errno.EPERM
from edgespool.clock import SystemClock
print(SystemClock().synchronized())
"""


@linux
def test_a_container_that_forbids_the_question_is_survived() -> None:
    import platform

    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the numbers of the system calls are known for two machines only")
    done = subprocess.run([sys.executable, "-c", _REFUSED], capture_output=True, text=True, timeout=30)
    if done.returncode == 77:
        pytest.skip("this system has no seccomp filters")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_boot_clock_never_goes_back_and_the_boot_has_one_name() -> None:
    clock = SystemClock()
    readings: list[list[float]] = [[] for _ in range(4)]

    def read(into: list[float]) -> None:
        into.extend(clock.monotonic() for _ in range(2000))

    threads = [threading.Thread(target=read, args=(into,)) for into in readings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(into == sorted(into) for into in readings)
    assert SystemClock().boot_id == clock.boot_id != ""


def test_a_machine_that_names_no_boot_gets_a_name_that_is_the_same_for_all_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edgespool.clock._BOOT_ID_FILE", str(tmp_path / "nothing"))
    monkeypatch.setattr("edgespool.clock.time.time", lambda: 1_790_000_005.0)
    monkeypatch.setattr("edgespool.clock.time.monotonic", lambda: 100.0)
    one = SystemClock().boot_id
    monkeypatch.setattr("edgespool.clock.time.time", lambda: 1_790_000_006.0)
    monkeypatch.setattr("edgespool.clock.time.monotonic", lambda: 101.0)
    assert SystemClock().boot_id == one
    monkeypatch.setattr("edgespool.clock.time.monotonic", lambda: 5.0)  # another boot, a minute and a half later
    assert SystemClock().boot_id != one
