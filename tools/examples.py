"""Run the examples of the documentation, so that they cannot drift from the code.

    python tools/examples.py README.md docs/*.md

Python blocks are run as programs, against a collector on loopback that stands in for the `example.com` addresses in
them, and for the services that vendors' SDKs have as their default. TOML blocks are loaded as configuration, JSON
blocks parsed, and of the commands in indented blocks each option is looked up in the command's help. Prints a line a
block; exit code 1 when one failed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from edgespool.config import load
from edgespool.errors import EdgespoolError
from edgespool.testing.collector import Collector

_ADDRESS = re.compile(r"(https?://)?[a-z0-9-]+\.example\.com\b")
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^    ((?:edgespool|replay-failed)\b.*)$", re.MULTILINE)


def _python(code: str, directory: str) -> str | None:
    """Run a program; return what went wrong, or None."""
    with Collector() as collector:
        path = os.path.join(directory, "example.py")
        with open(path, "w", encoding="utf-8") as file:
            base = collector.url.partition("/v1")[0].rstrip("/")
            file.write(_ADDRESS.sub(base, code))
        done = subprocess.run(
            [sys.executable, "-W", "error", path], capture_output=True, text=True, timeout=60, cwd=directory,
            env={**os.environ, "EDGESPOOL_DIR": os.path.join(directory, "queues"), "EDGESPOOL_CONFIG": os.devnull,
                 "EDGESPOOL_URL": base},
        )  # fmt: skip
    return done.stderr or f"exit code {done.returncode}" if done.returncode else None


def _toml(code: str, directory: str) -> str | None:
    path = os.path.join(directory, "example.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(code)
    try:
        load({}, path)
    except EdgespoolError as error:
        return str(error)
    return None


def _json(code: str, directory: str) -> str | None:
    try:
        json.loads(code)
    except ValueError as error:
        return str(error)
    return None


_RUNNERS = {"python": _python, "toml": _toml, "json": _json}


def _command(line: str) -> str | None:
    """Return what is wrong with the options of a command line, or None."""
    words = shlex.split(re.split(r" {2,}|\|", line)[0])
    known = [words[0]]
    for word in words[1:]:
        if words[0] == "edgespool" and len(known) == 1 and not word.startswith("-"):
            known.append(word)
    done = subprocess.run([*known, "--help"], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return f"`{' '.join(known)} --help` fails: {done.stderr.strip()}"
    missing = [word for word in words if word.startswith("--") and word.split("=")[0] not in done.stdout]
    return f"no such option: {', '.join(missing)}" if missing else None


def check(path: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield (line, kind, what went wrong) for each example in a file."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for match in _BLOCK.finditer(text):
        runner = _RUNNERS.get(match[1])
        if runner is not None:
            with tempfile.TemporaryDirectory() as directory:
                yield text.count("\n", 0, match.start()) + 1, match[1], runner(match[2], directory)
    for match in _COMMAND.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, "command", _command(match[1])


def main(paths: list[str]) -> int:
    """Check all the files; return the exit code."""
    failed = 0
    for path in paths:
        for line, kind, wrong in check(path):
            print(f"{'ok' if wrong is None else 'FAILED':6} {path}:{line} {kind}", flush=True)
            if wrong is not None:
                failed += 1
                print("       " + wrong.replace("\n", "\n       "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
