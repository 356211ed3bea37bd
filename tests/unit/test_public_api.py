"""The public names, what importing them costs, and that the errors form the tree they say."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgespool
import edgespool.testing
from edgespool import errors

HEAVY = ["requests", "rich", "click", "sqlite3", "persistqueue", "filelock", "platformdirs", "asyncio", "urllib3"]


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_these() -> None:
    assert edgespool.__all__ == [
        "AsyncClient",
        "Batch",
        "Client",
        "CloseReport",
        "ConfigError",
        "EdgespoolError",
        "Event",
        "EventError",
        "FailedFileError",
        "OutcomeUnknown",
        "QueueClosed",
        "QueueDamaged",
        "QueueError",
        "QueueFull",
        "QueueUnavailable",
        "QueueVersionError",
        "Stats",
        "StoredEvent",
        "__version__",
    ]
    assert edgespool.testing.__all__ == [
        "Collector",
        "FakeClock",
        "FakeDestination",
        "FaultProxy",
        "MemoryQueue",
        "NetworkFaults",
    ]


@pytest.mark.parametrize("module", [edgespool, edgespool.testing], ids=lambda module: module.__name__)
def test_every_public_name_is_there_and_documented(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        thing = getattr(module, name)
        assert name == "__version__" or inspect.getdoc(thing), name
        assert name in dir(module), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # type: ignore[attr-defined] # noqa: B018


def test_every_module_says_what_it_is_and_exports_what_it_says() -> None:
    for info in pkgutil.walk_packages(edgespool.__path__, "edgespool."):
        if info.name.rpartition(".")[2] in ("__main__", "_version"):
            continue
        module = importlib.import_module(info.name)
        assert inspect.getdoc(module), info.name
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{info.name}.{name}"


@pytest.mark.parametrize(
    "statement", ["import edgespool", "import edgespool.testing", "from edgespool import QueueFull, Event"]
)
def test_importing_the_package_loads_nothing_heavy(statement: str) -> None:
    loaded = run(f"{statement}\nprint(' '.join(name for name in {HEAVY!r} if name in sys.modules))")
    assert loaded == ""


def test_the_fakes_load_no_test_framework() -> None:
    names = ["pytest", "hypothesis", "unittest", "requests", "sqlite3"]
    loaded = run(
        "from edgespool.testing import FakeClock, FakeDestination, MemoryQueue\n"
        f"print(' '.join(name for name in {names!r} if name in sys.modules))"
    )
    assert loaded == ""


def test_the_library_says_nothing_unless_asked_and_leaves_signals_alone() -> None:
    said = run(
        "import signal, threading\nbefore = {n: signal.getsignal(n) for n in signal.valid_signals()}\n"
        "import logging, edgespool, edgespool.client\n"
        "logging.getLogger('edgespool').warning('not to be seen')\n"
        "assert before == {n: signal.getsignal(n) for n in signal.valid_signals()}\n"
        "print(threading.active_count(), len(logging.getLogger('edgespool').handlers))"
    )
    assert said == "1 1"


def test_the_package_is_marked_as_typed() -> None:
    assert (Path(edgespool.__file__).parent / "py.typed").exists()


# Errors


def test_the_errors_form_the_tree_that_their_module_draws() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    names = {line.split("──")[1].split()[0] for line in drawn} | {"EdgespoolError"}
    assert names == set(errors.__all__)
    for line in drawn:
        name = line.split("──")[1].split()[0]
        parent = errors.QueueError if line.startswith(" " * 8) else errors.EdgespoolError
        assert getattr(errors, name).__bases__[0] is parent, name
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.EventError, ValueError)
