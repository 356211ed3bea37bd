"""HMAC keys: which stream has which. In memory only; nothing here writes, logs or shows them. A leaf."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

__all__ = ["Keys", "signature"]


def signature(key: str, data: str) -> str:
    """Return what a request carries as `auth`: HMAC-SHA256 of the data text under the key, in hexadecimal."""
    return hmac.new(key.encode("utf-8", "surrogateescape"), data.encode("utf-8"), hashlib.sha256).hexdigest()


class Keys:
    """The keys of one account. Safe for any thread, and in a forked child: there are no locks."""

    def __init__(self) -> None:
        self._default = ""
        self._of: dict[str, str] = {}
        self._missed: set[str] = set()  # streams that could not be sent for want of a key

    @property
    def default(self) -> str:
        """The key of streams that have none of their own; empty: none."""
        return self._default

    def set_default(self, key: str) -> None:
        """Set the key of streams that have none of their own."""
        self._default = key

    def give(self, stream: str, key: str) -> bool:
        """Set a stream's own key; return whether events that could not be sent before may go now."""
        before = self.get(stream)
        self._of[stream] = key  # before the next line; `need` does it the other way round, so that one sees the other
        missed = stream in self._missed
        self._missed.discard(stream)
        return missed or (before not in ("", key))

    def get(self, stream: str) -> str:
        """Return the key to sign a stream's data with; empty: none is known."""
        return self._of.get(stream) or self._default

    def need(self, stream: str) -> str:
        """Return the same, and remember the stream when there is none."""
        if not self.get(stream):
            self._missed.add(stream)
        return self.get(stream)

    def own(self) -> Mapping[str, str]:
        """Return the streams' own keys."""
        return dict(self._of)

    def all(self) -> list[str]:
        """Return every key, to be cut out of what servers say."""
        return [key for key in {self._default, *list(self._of.values())} if key]

    def __repr__(self) -> str:
        return f"<Keys of {len(self._of)} stream(s){', and a default' if self._default else ''}>"
