"""Scripts written for other SDKs, unchanged: their import names lead to ours, whether or not the original is there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgespool
from edgespool import ConfigError, dropin
from edgespool.testing import Collector


def python(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with this very edgespool, and nothing of the user's settings."""
    clean = {n: v for n, v in os.environ.items() if not n.startswith("EDGESPOOL_") and not n.lower().endswith("_proxy")}
    clean |= {
        "PYTHONPATH": str(Path(edgespool.__file__).parents[1]),
        "HOME": str(tmp_path), "EDGESPOOL_DIR": str(tmp_path / "queues"), "EDGESPOOL_CONFIG": os.devnull, **more,
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path, env=clean
    )


SCRIPTS: dict[str, str] = {
    "initialstate": """
from ISStreamer.Streamer import Streamer
streamer = Streamer(bucket_name="b", bucket_key="k", access_key="a")
streamer.log("temperature", 21.5)
streamer.close()
""",
    "samsara": """
from samsara_sdk import SamsaraClient
from samsara_sdk.helpers import current_time_millis
client = SamsaraClient(url=URL, sourceId="s", min_buffer_size=1)
client.record_event(eventName="user.logged", timestamp=current_time_millis())
client.stop_consuming()
client.flush() if hasattr(client, "flush") else None
""",
    "atom": """
from ironsource.atom.ironsource_atom_tracker import IronSourceAtomTracker
tracker = IronSourceAtomTracker(endpoint=URL + "/")
tracker.track("stream", {"a": 1})
tracker.stop()
""",
}


@pytest.mark.parametrize("vendor", SCRIPTS)
def test_an_unchanged_script_delivers(vendor: str, tmp_path: Path, collector: Collector) -> None:
    script = tmp_path / "sensors.py"
    script.write_text(f"URL = {collector.base_url!r}\n{SCRIPTS[vendor]}")
    done = python(tmp_path, "-m", "edgespool", "run", str(script), EDGESPOOL_URL=collector.base_url)
    assert (done.returncode, done.stderr) == (0, "")
    if vendor == "samsara":  # stop_consuming stops; what is left goes out at the next start
        return
    assert [each for each in collector.arrived() if each.dialect == vendor]


def test_the_original_may_be_installed_or_not(tmp_path: Path) -> None:
    package = tmp_path / "ISStreamer"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the original')")
    script = tmp_path / "script.py"
    script.write_text("import ISStreamer.Streamer as s; print(s.Streamer.__module__)")
    assert "the original" in python(tmp_path, str(script)).stderr
    done = python(tmp_path, "-m", "edgespool", "run", str(script))
    assert done.stdout.strip().startswith("edgespool.vendors.initialstate")


def test_the_script_gets_its_arguments_its_name_and_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    folder.mkdir()
    (folder / "beside.py").write_text("VALUE = 5")
    script = folder / "script.py"
    script.write_text("import sys, beside; print(sys.argv, __name__, beside.VALUE)")
    done = python(tmp_path, "-m", "edgespool", "run", str(script), "--json", "a b", "-h")
    assert done.stdout.strip() == f"{[str(script), '--json', 'a b', '-h']} __main__ 5"


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [("raise SystemExit(3)", 3, ""), ("raise SystemExit('over')", 1, "over"), ("raise SystemExit", 0, "")],
)
def test_the_scripts_exit_code_is_the_commands(tmp_path: Path, ending: str, code: int, said: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(ending)
    done = python(tmp_path, "-m", "edgespool", "run", str(script))
    assert (done.returncode, done.stderr.strip()) == (code, said)


def test_a_failing_script_shows_its_own_traceback_alone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def f():\n    return 1 / 0\nf()\n")
    done = python(tmp_path, "-m", "edgespool", "run", str(script))
    assert done.returncode == 1
    assert done.stderr.count("File ") == 2
    assert "ZeroDivisionError" in done.stderr
    assert "edgespool" not in done.stderr.replace(str(tmp_path), "")


CHILDREN = """
import multiprocessing, sys
from ISStreamer.Streamer import Streamer

def child(depth):
    if depth:
        process = multiprocessing.Process(target=child, args=(depth - 1,))
        process.start()
        process.join()
        sys.exit(process.exitcode)
    print(Streamer.__module__, __name__)

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    child(2)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_the_scripts_children_are_served_too(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(CHILDREN)
    done = python(tmp_path, "-m", "edgespool", "run", str(script), method)
    assert (done.returncode, done.stderr) == (0, "")
    name = "__main__" if method == "fork" else "__mp_main__"
    assert done.stdout.split() == ["edgespool.vendors.initialstate.api", name]


def test_a_pool_of_processes_works_with_the_scripts_own_functions(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import multiprocessing, panoply\n"
        "def double(n): return 2 * n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool: print(pool.map(double, range(4)))\n"
    )
    done = python(tmp_path, "-m", "edgespool", "run", str(script))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[0, 2, 4, 6]", "")


def test_what_a_thread_pickles_after_the_scripts_end_is_still_of_main(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import pickle, threading\n"
        "class Thing: pass\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print(type(pickle.loads(pickle.dumps(Thing()))) is Thing)\n"
        "threading.Thread(target=late).start()\n"
    )
    assert python(tmp_path, "-m", "edgespool", "run", str(script)).stdout.strip() == "True"


SHOW = """
import sys, ISStreamer.Streamer as s
spec = __spec__ and (__spec__.name, __spec__.loader is __loader__)
print(sys.argv, __name__, __file__, __package__, spec, sys.path[0], s.Streamer.__module__)
"""


@pytest.mark.parametrize(
    ("place", "given"),
    [("plain.py", "plain.py"), ("folder/__main__.py", "folder"), ("packed.zip", "packed.zip"),
     ("single.py", "-m single"), ("package/__main__.py", "-m package"), ("package/sub.py", "-m package.sub")],
)  # fmt: skip
def test_it_runs_what_python_runs_and_as_python_does(tmp_path: Path, place: str, given: str) -> None:
    (tmp_path / "ISStreamer").mkdir()
    (tmp_path / "ISStreamer" / "Streamer.py").write_text("class Streamer: pass")
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    if place.endswith(".zip"):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("__main__.py", SHOW)
    else:
        file.write_text(SHOW)
    if place.startswith("package"):
        (file.parent / "__init__.py").touch()
    # A zip file is no place of the original's: there it is not even found.
    theirs = python(tmp_path, *given.split(), "x", "--json", "-m", PYTHONPATH=str(tmp_path))
    assert theirs.returncode == 0, theirs.stderr
    ours = python(tmp_path, "-m", "edgespool", "run", *given.split(), "x", "--json", "-m")
    assert ours.returncode == 0, ours.stderr
    assert ours.stdout.replace("edgespool.vendors.initialstate.api", "ISStreamer.Streamer") == theirs.stdout


@pytest.mark.parametrize(
    "given",
    ["", "none.py", "empty", "-m none", "-m none.below", "-m empty", "-m math", "-m sys", "-m .", "-m ISStreamer"],
)
def test_what_cannot_be_run_is_said_in_a_line(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    done = python(tmp_path, "-m", "edgespool", "run", *given.split())
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr


def test_a_script_that_is_no_python_shows_where(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("a = 1\nb = = 2\n")
    done, plain = python(tmp_path, "-m", "edgespool", "run", str(script)), python(tmp_path, str(script))
    assert (done.returncode, done.stderr) == (1, plain.stderr)


def test_an_import_that_is_not_served_says_what_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import ISStreamer.BucketBuilder")
    done = python(tmp_path, "-m", "edgespool", "run", str(script))
    assert done.returncode == 1
    assert "serves no module 'ISStreamer.BucketBuilder': there are ISStreamer.Streamer" in done.stderr


@pytest.fixture
def _clean() -> Iterator[None]:
    before = dict(sys.modules)
    for name in list(sys.modules):
        if name.partition(".")[0] in ("ISStreamer", "samsara_sdk", "ironsource", "panoply", "paltabrain_sdk"):
            del sys.modules[name]
    yield
    dropin.uninstall()
    sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})


@pytest.mark.usefixtures("_clean")
def test_install_by_either_name_serves_that_vendor_alone() -> None:
    for name in ("isstreamer", "ISStreamer", "initialstate"):
        assert "ISStreamer.Streamer" in dropin.install(name)
        from ISStreamer.Streamer import Streamer  # type: ignore[import-not-found,unused-ignore]

        from edgespool.vendors.initialstate.api import Streamer as Ours

        assert Streamer is Ours
        dropin.uninstall()
    dropin.install("samsara")
    assert not any(name.startswith("ironsource") for name in dropin._finder.served)


@pytest.mark.usefixtures("_clean")
def test_an_unknown_vendor_and_an_original_that_is_imported_already_are_errors() -> None:
    with pytest.raises(ConfigError, match="no drop-in for 'posthog'; there are atom, "):
        dropin.install("posthog")
    sys.modules["ISStreamer"] = type(sys)("ISStreamer")
    try:
        with pytest.raises(ConfigError, match="ISStreamer: imported already"):
            dropin.install("isstreamer")
    finally:
        del sys.modules["ISStreamer"]


@pytest.mark.usefixtures("_clean")
def test_an_attribute_that_is_not_served_says_who_answers() -> None:
    dropin.install()
    module: Any = __import__("samsara_sdk")
    with pytest.raises(AttributeError, match="edgespool stands in for the package 'samsara_sdk'"):
        _ = module.nothing


def test_every_name_that_is_promised_can_be_imported() -> None:
    from importlib import import_module

    for served in dropin._imports().values():
        for target in served.values():
            if target:
                import_module(target)
