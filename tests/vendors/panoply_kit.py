"""Runs data sources by `edgespool source run`, each in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import edgespool
from edgespool.testing import Collector
from edgespool.vendors.panoply.device import Device


class Runs:
    """Runs the source in a directory of its own.

    Args:
        place: the directory; the source is written there.
        url: of the collector.
        source: the text of the module.
    """

    def __init__(self, place: Path, url: str, source: str) -> None:
        self.place, self.url = place, url
        (place / "my_source.py").write_text(source)

    def __call__(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; `settings` are environment variables, without their EDGESPOOL_."""
        with self.start(*arguments, **settings) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Begin to run it."""
        (self.place / "closed").unlink(missing_ok=True)
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.place,
            env=self.environment(**settings),
        )  # fmt: skip

    def command(self, *arguments: str) -> list[str]:
        """Return the command; without a module among the arguments it is the source's."""
        module = [] if "./my_source.py" in arguments else ["./my_source.py"]
        return [sys.executable, "-m", "edgespool", "source", "run", *module, *arguments]

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the process's environment."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("EDGESPOOL_") and not name.lower().endswith("_proxy")
        }
        given = {f"EDGESPOOL_{name.upper()}": value for name, value in settings.items()}
        return clean | {
            "PYTHONPATH": str(Path(edgespool.__file__).parents[1]), "HOME": str(self.place),
            "EDGESPOOL_DIR": str(self.place / "queues"), "EDGESPOOL_CONFIG": os.devnull, "EDGESPOOL_URL": self.url,
            "EDGESPOOL_AUTH": Device.auth, **given,
        }  # fmt: skip

    @property
    def closed(self) -> int:
        """How often the source was closed in the last run."""
        file = self.place / "closed"
        return len(file.read_text().splitlines()) if file.exists() else 0


def numbers(collector: Collector) -> list[Any]:
    """Return the numbers in the rows that arrived, in their order."""
    return [event["n"] for event in collector.events()]
