"""What every vendor's front end needs: a client whose queue belongs to one account, and never to another."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from .. import config
from ..client import Client

__all__ = ["Device", "open_client"]

_lock = threading.Lock()
_accounts: dict[str, str] = {}  # queue directory -> the account whose events it takes; in memory only


def open_client(vendor: str, account: str, url: str | None = None, **given: Any) -> Client:
    """Return a client whose queue is named after the script and the vendor, unless the settings say otherwise.

    A program may speak for several accounts at once. Their events must not meet in one queue: they would go out with
    one account's credentials. The first account of a program has the plain name, so that its backlog is found again
    after a key was changed; each further one has a name of its own, made from the account.

    Args:
        vendor: the vendor's folder; also the format's name, unless `given` holds a format.
        account: what tells accounts apart, for example the access key; only a digest of it is used.
        url: where events are posted; None: the settings, or the service's own address.
        given: keywords of `edgespool.Client`.

    Raises:
        ConfigError, QueueError: see `edgespool.Client`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    given.setdefault("format", vendor)
    settings = config.load({name: given[name] for name in ("path", "name") if name in given}, given.get("config_file"))
    if settings.path is None and settings.name is None:
        name = f"{config.default_name()[:60]}.{vendor}"
        place = os.path.join(config.data_directory(), name)
        with _lock:
            own = _accounts.setdefault(place, account) == account
        given["name"] = name if own else f"{name}.{_fingerprint(vendor, account)}"
    return Client(url, **given)


def _fingerprint(vendor: str, account: str) -> str:
    """Return a mark of an account that can stand in a directory's name, though it be made of a weak secret.

    Slow on purpose: whoever reads the name must not find the secret by trying.
    """
    salt = f"edgespool account of {vendor}".encode()
    return hashlib.pbkdf2_hmac("sha256", account.encode("utf-8", "surrogateescape"), salt, 100_000, 6).hex()


class Device(Protocol):
    """What a vendor's module `device` gives: its SDK, used as its users use it, to track numbered readings.

    The demo, the contract suite and the benchmark drive every vendor through this.
    """

    #: Its credentials as `replay-failed` wants them in EDGESPOOL_AUTH; None where the service has none.
    auth: str | None

    def __init__(self, url: str, **given: Any) -> None:
        """Open the SDK's main class on the collector at `url` (scheme, host, port); `given` are our own keywords."""
        ...

    def track(self, number: int) -> None:
        """Track one reading; durable once it returns."""
        ...

    def close(self) -> None:
        """Close as the SDK's users would."""
        ...

    @staticmethod
    def number_of(event: Mapping[str, Any]) -> int | None:
        """Return the number in an event as the collector has decoded it; None when it is no reading."""
        ...

    @staticmethod
    def poison(number: int) -> Mapping[str, Any]:
        """Return the fault rule (see `edgespool.testing.Faults.poison`) by which the collector refuses that reading."""
        ...
