"""What every vendor's front end needs: a client whose queue belongs to one account, and never to another."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import inspect
import logging
import os
import re
import secrets
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .. import config, forks, jsontext
from ..client import Client
from ..errors import ConfigError, QueueError
from ..files import make_directory, open_private, read_bounded, write_whole
from ..queue.locks import WriteLock
from ..queue.view import QueueView, sender_alive
from . import console

__all__ = ["Device", "names_of", "open_client", "open_place"]

_log = logging.getLogger("edgespool")
_OWNER = "account"  # the file in a queue's directory that says whose it is
_DECIDING = "account.lock"  # held while somebody finds that out, or changes it
_USERS = "account.users"  # each client holds a shared lock on it; `account` itself is replaced, and cannot bear one
_lock = forks.Lock()
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
    if settings.path is not None:
        return open_place(
            settings.directory, account, url,
            otherwise="Give this one a path of its own, or give none: below EDGESPOOL_DIR each account has its queue",
            **given,
        )  # fmt: skip
    account = account if apart is None else f"{account}\0{apart}"
    name = settings.name or f"{config.default_name()[:60]}.{vendor}"
    place = os.path.join(config.data_directory(), name)
    with _lock:
        mine = _accounts.get(place, account) == account
        hold = _enter(place, account, _warn_of_backlog) if mine else None
    if hold is not None:
        return _opened(hold, url, {**given, "name": name})
    name = f"{name}.{_fingerprint(vendor, account)}"
    return open_place(
        os.path.join(config.data_directory(), name), account, url,
        otherwise="Give this one a name of its own", **{**given, "name": name},
    )  # fmt: skip


def open_place(
    place: str,
    account: str,
    url: str | None = None,
    *,
    otherwise: str,
    backlog: Callable[[str], None] | None = None,
    **given: Any,
) -> Client:
    """Return a client on the queue in this directory, which must be the account's; see `open_client`.

    Args:
        place: the queue's directory, absolute; `given` must lead there.
        account, url: as in `open_client`.
        otherwise: what to do about a queue that is another's, as a sentence without its full stop.
        backlog: called with `place` before a queue of another key is taken over; may refuse by raising ConfigError.
            None: a warning says how many events wait.
        given: keywords of `edgespool.Client`.

    Raises:
        ConfigError: the queue is another account's; or see `edgespool.Client`.
        QueueError: see `edgespool.Client`.
    """
    with _lock:
        hold = _enter(place, account, backlog or _warn_of_backlog)
    if hold is None:
        raise ConfigError(f"path: the queue in {place} takes the events of another account. {otherwise}")
    return _opened(hold, url, given)


def _opened(hold: _Hold, url: str | None, given: Mapping[str, Any]) -> Client:
    """Return a client that keeps its hold on a queue until it has closed it."""
    try:
        client = Client(url, **given)
    except BaseException:
        hold.release()
        raise
    _clients.add(client)
    # The queue's, not the client's: after a close in the midst of a request the sender's thread goes on with this
    # account's key, and closes the queue when it is done.
    client._queue._store.hold = hold
    return client


# --- whose a queue is -------------------------------------------------------------------------------------------------

class _Hold:
    """That a client uses a queue: a shared lock, which keeps other accounts from taking the queue over.

    Windows has none, and some filesystems have none; there a queue that has a sender counts as in use, and no other.

    Args:
        place: the queue's directory.
        account: whose queue it is.
    """

    def __init__(self, place: str, account: str) -> None:
        self._place = place
        self._account = account
        self._fd = -1
        self._close: Callable[[], object] = int  # nothing yet

    def open(self) -> None:
        """Open the file that is locked; raises OSError."""
        if sys.platform != "win32":
            self._fd = open_private(os.path.join(self._place, _USERS), os.O_RDWR)
            end = weakref.finalize(self, os.close, self._fd)
            end.atexit = False  # exit hooks may still record; the kernel comes last
            self._close = end

    def alone(self) -> bool:
        """Return whether no other client, of any process, uses the queue; if so none can from now on."""
        return self._lock("LOCK_EX")

    def share(self) -> bool:
        """Use the queue along with others of the account; return False while its account is being decided on."""
        return self._lock("LOCK_SH")

    def _lock(self, how: str) -> bool:
        if self._fd >= 0 and sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(self._fd, getattr(fcntl, how) | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # a filesystem without locks
                pass
        return True

    def abandon(self) -> None:
        """Give up what no client has come to have; also the copy of a child that was forked meanwhile."""
        self._lock("LOCK_UN")
        self.release()

    def release(self) -> None:
        """Close the file. A forked child that still uses the queue has a copy, and keeps the lock by that."""
        self._fd = -1
        self._close()

    def acquire(self) -> None:
        """Hold the queue again, whose disk was away; nothing if it is held. Raises OSError when it may not be used."""
        if self._fd < 0 and sys.platform != "win32":
            self.open()
            salt, digest = _owner(self._place)
            shared = self.share()
            if not shared or (digest and not hmac.compare_digest(_mark(self._account, salt), digest)):
                self.release()
                raise OSError(errno.EBUSY, "the queue is another account's by now; start the program anew", self._place)


def _enter(place: str, account: str, backlog: Callable[[str], None]) -> _Hold | None:
    """Return a hold on the queue in this directory if it is the account's, or becomes it; None if it is another's.

    Processes that start together decide one after the other.
    """
    # No lock library: filelock guards its state around the forks of programs that have nothing to do with it.
    deciding = WriteLock(os.path.join(place, _DECIDING))
    hold = _Hold(place, account)
    mine = False
    try:
        with contextlib.suppress(OSError):  # a disk that takes nothing: the client will say so
            make_directory(place)
            deciding.acquire()
            hold.open()
        mine = _belongs(place, account, hold, backlog)
        if mine:
            hold.share()
            _accounts[place] = account
        return hold if mine else None
    finally:
        if not mine:
            hold.abandon()
        with contextlib.suppress(OSError):
            deciding.release()
        deciding.close()


def _belongs(place: str, account: str, hold: _Hold, backlog: Callable[[str], None]) -> bool:
    """Whether the queue in this directory is the account's; from now on, if it is nobody's or the key was changed."""
    if any(client.directory == place and not client.closed for client in _clients):
        return _accounts.get(place) == account
    salt, digest = _owner(place)
    mark = _mark(account, salt)
    if hmac.compare_digest(mark, digest):
        return True
    if digest and (_has_several(place) or sender_alive(place)):
        return False
    if not hold.alone():
        return False
    if digest:
        backlog(place)
    path = os.path.join(place, _OWNER)
    try:
        write_whole(path, jsontext.encode({"salt": salt.hex(), "digest": mark.hex()}) + b"\n")
    except OSError:  # a full disk: then the next start says so
        with contextlib.suppress(OSError):  # until then it must not say that the queue is still the former account's
            os.unlink(path)
    return True


def _owner(place: str) -> tuple[bytes, bytes]:
    """Return the salt and the digest of the account whose queue this is; a new salt and no digest: nobody's."""
    try:
        owner = jsontext.loads(read_bounded(os.path.join(place, _OWNER), 1024))
        return bytes.fromhex(owner["salt"]), bytes.fromhex(owner["digest"])
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is damaged
        return secrets.token_bytes(16), b""


def _mark(account: str, salt: bytes) -> bytes:
    """Return the digest of an account."""
    return hashlib.pbkdf2_hmac("sha256", account.encode("utf-8", "surrogateescape"), salt, 10_000)


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
