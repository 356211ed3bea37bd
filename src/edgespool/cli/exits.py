"""The exit codes of all commands, in one place."""

from __future__ import annotations

import enum

__all__ = ["Exit", "epilog"]


class Exit(enum.IntEnum):
    """What a command's end means to a script."""

    OK = 0
    ATTENTION = 1
    USAGE = 2
    QUEUE = 3
    SERVER = 4
    INTERRUPTED = 130


_MEANINGS = {
    Exit.OK: "all is well",
    Exit.ATTENTION: "something needs attention",
    Exit.USAGE: "wrong usage or configuration",
    Exit.QUEUE: "the queue cannot be opened or read",
    Exit.SERVER: "the server refuses everything, or cannot be reached",
    Exit.INTERRUPTED: "interrupted",
}


def epilog(meanings: dict[Exit, str] | None = None, before: str = "") -> str:
    """Return the end of a command's help.

    Args:
        meanings: what the codes that this command ends with mean here, where the general words do not say enough.
        before: text to put first; its line breaks are kept.
    """
    said = {**_MEANINGS, **(meanings or {})}
    lines = [f"  {code.value:<4} {said[code]}" for code in Exit]
    # \b keeps click from joining the lines.
    return (f"\b\n{before.strip()}\n\n" if before else "") + "\b\nExit codes:\n" + "\n".join(lines)
