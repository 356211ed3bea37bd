"""The exception by which a data source says whether trying again makes sense. A leaf."""

from __future__ import annotations

from typing import Any

__all__ = ["PanoplyException"]


class PanoplyException(Exception):
    """Raised by a data source.

    Args:
        args: what went wrong, a text as a rule; it becomes the exception's only argument.
        retryable: whether the same `read` may succeed when it is tried again; an HTTP 404, for example, will not.
    """

    def __init__(self, args: Any = None, retryable: bool = True) -> None:
        super().__init__(args)
        self.retryable = retryable
