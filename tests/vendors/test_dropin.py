"""Scripts written for other SDKs, unchanged: their import names lead to ours, whether or not the original is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgespool
from edgespool import ConfigError, dropin
from edgespool.testing import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as made:
        yield made


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
