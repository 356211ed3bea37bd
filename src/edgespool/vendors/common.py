"""What every vendor's front end needs: a client whose queue belongs to one account, and never to another."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import inspect
import logging
import os
import re
import secrets
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from .. import config, jsontext
from ..client import Client
from ..errors import ConfigError, QueueError
from ..files import read_bounded, write_whole
from ..queue.view import QueueView, sender_alive
from . import console

__all__ = ["Device", "names_of", "open_client"]

_log = logging.getLogger("edgespool")
_OWNER = "account"  # the file in a queue's directory that says whose it is
_lock = threading.Lock()
_accounts: dict[str, str] = {}  # queue directory -> the account whose events it takes; in memory only
_clients: weakref.WeakSet[Client] = weakref.WeakSet()  # that were opened here


def names_of(front: type) -> list[str]:
    """Return the names of the arguments of a front end's class."""
    return list(inspect.signature(front).parameters)


def open_client(
    vendor: str,
    account: str,
    url: str | None = None,
    *,
    apart: str | None = None,
    options: Iterable[str] = (),
    **given: Any,
) -> Client:
    """Return a client whose queue is named after the script and the vendor, unless the settings say otherwise.

    A program may speak for several accounts at once. Their events must not meet in one queue: they would go out with
    one account's credentials. The first account that a program ever had has the plain name; each further one has a name
    of its own, made from the account. A program that has had one account only and comes with another, while nobody
    sends for the first, is taken to have got a new key: its backlog goes out with that. A `path` is one queue, and so
    of one account at a time.

    From now on warnings are seen in the console; see `edgespool.vendors.console`.

    Args:
        vendor: the vendor's folder; also the format's name, unless `given` holds a format.
        account: what tells accounts apart, for example the access key; only a digest of it is used.
        url: where events are posted; None: the settings, or the service's own address.
        apart: what has a queue of its own within an account, unless `path` says where.
        options: names of the front end's own arguments; one of them may have been meant by a name that nobody knows.
        given: keywords of `edgespool.Client`.

    Raises:
        ConfigError, QueueError: see `edgespool.Client`.
    """
    console.show()
    given = {name: value for name, value in given.items() if value is not None}
    for unknown in given.keys() - inspect.signature(Client).parameters.keys():
        config.check_name(unknown, "keyword", options)
    given.setdefault("format", vendor)
    settings = config.load({name: given[name] for name in ("path", "name") if name in given}, given.get("config_file"))
    with _lock:
        if settings.path is not None:
            _claim(settings.directory, account)
        else:
            account = account if apart is None else f"{account}\0{apart}"
            name = settings.name or f"{config.default_name()[:60]}.{vendor}"
            place = os.path.join(config.data_directory(), name)
            taken = _accounts.get(place)
            if taken == account or (taken is None and _belongs(place, account)):
                _accounts[place] = account
                given["name"] = name
            else:
                given["name"] = f"{name}.{_fingerprint(vendor, account)}"
    client = Client(url, **given)
    _clients.add(client)
    return client


def _claim(place: str, account: str) -> None:
    """See that a queue whose place was given is the account's; raises ConfigError while it is another's."""
    in_use = any(client.directory == place and not client.closed for client in _clients)
    mine = _accounts.get(place) == account if in_use else _belongs(place, account)
    if not mine:
        raise ConfigError(
            f"path: the queue in {place} takes the events of another account. Give this one a path of its own, or give "
            "none: below EDGESPOOL_DIR each account has its queue"
        )
    _accounts[place] = account


def _belongs(place: str, account: str) -> bool:
    """Whether the queue in this directory is the account's; from now on, if it is nobody's or the key was changed."""
    path = os.path.join(place, _OWNER)
    try:
        owner = jsontext.loads(read_bounded(path, 1024))
        salt, digest = bytes.fromhex(owner["salt"]), bytes.fromhex(owner["digest"])
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is damaged
        salt, digest = secrets.token_bytes(16), b""
    mark = hashlib.pbkdf2_hmac("sha256", account.encode("utf-8", "surrogateescape"), salt, 10_000)
    if hmac.compare_digest(mark, digest):
        return True
    if digest:
        if _has_several(place) or sender_alive(place):
            return False
        _warn_of_backlog(place)
    with contextlib.suppress(OSError):  # a full disk: then the next start says so
        write_whole(path, jsontext.encode({"salt": salt.hex(), "digest": mark.hex()}) + b"\n")
    return True


def _has_several(place: str) -> bool:
    """Whether the program whose first account has this directory has had others, too."""
    folder, name = os.path.split(place)
    with contextlib.suppress(OSError):
        return any(re.fullmatch(re.escape(name) + r"\.[0-9a-f]{12}", each) for each in os.listdir(folder))
    return False


def _warn_of_backlog(place: str) -> None:
    with contextlib.suppress(QueueError):
        with QueueView(place) as view:
            pending = view.ledger().pending
        if pending:
            _log.warning(
                "%d event(s) in %s were recorded with another key; they go out with the new one. Were it another "
                "account's: stop the program, and deliver them with `edgespool deliver` and that account's key",
                pending, place,
            )  # fmt: skip


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
