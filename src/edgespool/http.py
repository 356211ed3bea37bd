"""HttpDestination: batches by HTTP, with one `requests.Session`. The only module that opens sockets.

It turns whatever happens into an outcome and raises nothing. Redirects are not followed (a POST would become a GET, and
a captive portal would take the events), certificates are verified, every wait has a limit, and so has the whole of an
exchange (see `deadline`), and of a reply no more than 64 KiB is read.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - were it imported by the sender's thread, and the program forked in the midst
import gzip
import logging
import netrc  # noqa: F401 - of that, the child could never import it; so with this one
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests

from ._version import __version__
from .deadline import DeadlineAdapter
from .errors import ConfigError
from .event import Batch, StoredEvent
from .failed import public_url
from .formats import Service
from .interfaces import Format, Request, Unready, Watch
from .outcome import Delivered, Hold, Outcome, Reject, Reply, Retry, one_line
from .redaction import Redactor

__all__ = ["HttpDestination"]

_log = logging.getLogger("edgespool")

_REPLY_LIMIT = 64 * 1024
_WORTH_COMPRESSING = 512  # bytes; below, the gzip header eats the gain
_GZIP_LEVEL = 6
_PLAIN_STREAK = 100  # plain requests after which gzip is given another chance
# Codings whose output is at most a thousand times their input; others, or two of them, can fill a small memory at once.
_TAME_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")  # RFC 9110, section 5.6.2
_VALUE = re.compile(r"([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?")  # RFC 9110, section 5.5

Auth = tuple[str, str] | str | requests.auth.AuthBase


class _BearerAuth(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say that there is none: requests would read the whole body, of any size, of a redirect it does not follow."""


class HttpDestination:
    """Sends batches to one URL.

    Args:
        url: where to post, http:// or https://.
        format: makes the request and reads the reply.
        headers: sent with every request; they win over the format's.
        auth: ``(user, password)``, a bearer token as text, or an object as requests takes it.
        timeout: seconds to wait for a connection; seconds for the request to be sent, and again for the whole reply.
        compression: ``"gzip"`` or ``"none"``.
        verify: whether certificates are verified, or the path of a CA bundle.
        cert: a client certificate: a path, or (certificate, key).
        session: a session of your own, used as it is and not closed. Its time-outs are those of requests, for each
            piece of the reply.
        watch: is told of each exchange.

    Raises:
        ConfigError: the URL or a header cannot be used.
    """

    def __init__(
        self,
        url: str,
        format: Format,
        *,
        headers: Mapping[str, str] | None = None,
        auth: Any = None,
        timeout: tuple[float, float] = (5.0, 30.0),
        compression: str = "gzip",
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        session: requests.Session | None = None,
        watch: Watch | None = None,
    ) -> None:
        parts = _parts(url)
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or " " in parts.netloc:
            # Without what may be secret in it.
            raise ConfigError(f"url: an http:// or https:// address is needed, not {public_url(url)!r}")
        self.url = url
        self.format = format
        self._headers = dict(headers or {})
        for name, value in self._headers.items():
            token = _TOKEN.match(name)
            if not name or token is None or token.group() != name:
                # No more of it: it may be a whole header line, with its secret.
                raise ConfigError(f"headers: there is no HTTP header named {token.group() if token else ''}…")
            if not isinstance(value, str) or not _VALUE.fullmatch(value):
                raise ConfigError(f"headers: {name!r} has a value that no HTTP header can hold")
        self._auth = _authentication(auth)
        self._timeout = timeout
        self._compress = compression == "gzip"
        self._verify = verify
        self._cert = cert
        self._given_session = session
        self._watch = watch or Watch()
        self._service = format if isinstance(format, Service) else None
        self._own_names = {name.lower() for name in self._headers}
        self._template: requests.PreparedRequest | None = None  # all of a request but its body
        self._template_of = ""
        self._session: requests.Session | None = None
        self._found: Mapping[str, Any] | None = None
        self._look_again = 0.0
        self._gzip_works = False  # the server has taken a compressed body before
        self._plain_left = 0  # requests to send uncompressed before gzip is tried again
        self._redactor = Redactor(url, self._headers, auth)

    def take(self, events: Sequence[StoredEvent]) -> int:
        """Return how many of the leading events fit into one request."""
        return self.format.take(events)

    def send(self, batch: Batch) -> Outcome:
        """Send the batch and return what came of it; raises nothing."""
        try:
            request = self.format.request(batch)
            outcome, zipped = self._watched(batch, request)
            if zipped and isinstance(outcome, Reject) and (outcome.status == 415 or not self._gzip_works):
                # Either the server says that it knows no gzip, or it may not know that it got some. Send plainly for
                # a while: this at once when no smaller piece of it will follow.
                self._plain_left = _PLAIN_STREAK
                if outcome.status == 415 or len(batch) == 1:
                    outcome, _ = self._watched(batch, request)
            elif zipped and isinstance(outcome, Delivered):
                self._gzip_works = True
        except Unready as error:
            return Hold(self._redactor.clean(str(error)))
        except Exception as error:  # noqa: BLE001 - a format's mistake must not end the worker, nor lose the batch
            return Retry(self._redactor.clean(f"{type(error).__name__}: {error}"))
        return outcome

    def reach(self) -> Outcome | int:
        """Ask the server for nothing (HEAD, without credentials); return its status, or why there was no reply."""
        if self._session is None:
            self._session = self._given_session or self._new_session()
        url = public_url(self.url)
        request = requests.Request("HEAD", url, headers={"User-Agent": f"edgespool/{__version__}"}).prepare()
        try:
            with self._session.send(
                request, timeout=self._timeout, allow_redirects=False, stream=True, **self._environment(url)
            ) as response:
                return response.status_code
        except requests.RequestException as error:
            return self._failure(error)

    def close(self) -> None:
        """Close the connections; a later `send` makes new ones."""
        session, self._session = self._session, None
        if session is not None and session is not self._given_session:
            session.close()

    def after_fork_in_child(self) -> None:
        """Forget connections that belong to the parent, without closing them."""
        self._session = None

    def _watched(self, batch: Batch, request: Request) -> tuple[Outcome, bool]:
        """Send one request and return the outcome, and whether the body was compressed; tell whoever watches."""
        if self._watch.on_request is not None:
            _call(self._watch.on_request, batch, request)
        reply: Reply | None = None
        try:
            reply, zipped = self._exchange(request)
            outcome = self._redacted(self.format.outcome(reply))
        except requests.RequestException as error:
            outcome, zipped = self._failure(error), False
        if self._watch.on_reply is not None:
            _call(self._watch.on_reply, batch, request, reply, outcome)
        return outcome, zipped

    def _exchange(self, request: Request) -> tuple[Reply, bool]:
        """Send one request and return the reply, and whether the body was compressed."""
        body = request.body
        headers = {"User-Agent": f"edgespool/{__version__}", "Accept-Encoding": "gzip, deflate", **request.headers}
        zipped = self._compress and request.compressible and len(body) >= _WORTH_COMPRESSING and not self._plain_left
        if zipped:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        elif self._plain_left:
            self._plain_left -= 1
        if self._own_names:
            headers = {name: value for name, value in headers.items() if name.lower() not in self._own_names}
            headers.update(self._headers)
        if self._session is None:
            self._session = self._given_session or self._new_session()
            self._template = None
        environment = self._environment(self.url + request.path)
        prepared = self._prepare(request.method, self.url + request.path, headers, body)
        known: Collection[str] = ()
        if self._service is not None:  # it says itself what is secret in the headers it made
            self._redactor.learn(self._service.secrets())
            known = {name.lower() for name in request.headers} - self._own_names
        self._redactor.learn_sent(prepared.headers, known)
        with self._session.send(
            prepared, timeout=self._timeout, allow_redirects=False, stream=True, **environment
        ) as response:
            if response.request is not prepared:  # it had to be signed anew
                self._redactor.learn_sent(response.request.headers, known)
            reply = Reply(
                response.status_code,
                {name.lower(): value for name, value in response.headers.items()},
                self._read(response),
            )
        return reply, zipped

    def _prepare(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> requests.PreparedRequest:
        """Return the request as requests makes it. What it takes longest over, and is the same each time, is kept."""
        session = self._session
        assert session is not None
        plain = self._auth is None or isinstance(self._auth, (_BearerAuth, tuple))
        if self._given_session is not None or not plain or method != "POST":
            return session.prepare_request(requests.Request(method, url, headers=headers, data=body, auth=self._auth))
        template = self._template
        if template is None or self._template_of != url:
            template = session.prepare_request(requests.Request(method, url, data=b"-", auth=self._auth))
            self._template, self._template_of = template, url
        prepared = template.copy()
        authorization = template.headers.get("Authorization")  # of auth, or of a netrc file: it goes before headers
        prepared.headers.update(headers)
        if authorization is not None:
            prepared.headers["Authorization"] = authorization
        prepared.prepare_body(body, None)
        return prepared

    def _environment(self, url: str | None) -> Mapping[str, Any]:
        """Return proxies, CA bundle and client certificate, as requests finds them, looked up once a minute.

        requests itself goes through all environment variables for each request.
        """
        now = time.monotonic()
        if self._found is None or now > self._look_again:
            assert self._session is not None
            # None, not True: a session given by the user may bring a CA bundle of its own.
            verify = None if self._verify is True else self._verify
            found = self._session.merge_environment_settings(url, {}, True, verify, self._cert)
            self._found = {name: found[name] for name in ("proxies", "verify", "cert")}
            self._template = None  # netrc files are looked up there
            self._look_again = now + 60.0
            self._redactor.learn_proxies(self._found["proxies"])
        return self._found

    def _new_session(self) -> requests.Session:
        session = _Session()
        # A server's cookies are not kept: nobody asked for them, and there is no end to how many it may set.
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        adapter = DeadlineAdapter(self._timeout[1], pool_connections=1, pool_maxsize=1, max_retries=0)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def _read(self, response: requests.Response) -> bytes:
        """Return the beginning of the reply's body. The status is known: a body that breaks off changes nothing."""
        if response.headers.get("Content-Encoding", "").strip().lower() not in _TAME_CODINGS:
            return b""
        parts: list[bytes] = []
        size = 0
        deadline = time.monotonic() + self._timeout[1]
        with contextlib.suppress(requests.RequestException, OSError, ValueError):
            for part in response.iter_content(4096):
                parts.append(part)
                size += len(part)
                if size >= _REPLY_LIMIT or time.monotonic() > deadline:
                    response.close()  # the rest would have to be read before the connection could be used again
                    break
        return b"".join(parts)[:_REPLY_LIMIT]

    def _failure(self, error: requests.RequestException) -> Outcome:
        said = self._redactor.clean(_plain_words(error))
        if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
            return Hold(f"the request cannot be made: {said}", everywhere=True)
        if isinstance(error, (requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema)):
            return Hold(f"the request cannot be made: {said}", everywhere=True)
        if isinstance(error, requests.exceptions.SSLError):
            return Retry(f"TLS failure: {said} (is this device's clock right?)", everywhere=True)
        if isinstance(error, requests.exceptions.ConnectTimeout):
            return Retry(f"no connection within {self._timeout[0]:g} s", everywhere=True)
        if isinstance(error, requests.exceptions.Timeout):
            return Retry(f"no reply within {self._timeout[1]:g} s", everywhere=True)
        return Retry(f"no connection: {said}", everywhere=True)

    def _redacted(self, outcome: Outcome) -> Outcome:
        """Return the outcome, what the server said without our credentials."""
        reason = getattr(outcome, "reason", "")
        if reason and (cleaned := self._redactor.clean(reason)) != reason:
            return replace(outcome, reason=cleaned)  # type: ignore[arg-type]
        return outcome


def _call(hook: Callable[..., None], *args: object) -> None:
    try:
        hook(*args)
    except BaseException as error:  # noqa: BLE001 - also a SystemExit, which would end the sender without a word
        _log.warning("hook %r raised %s: %s", getattr(hook, "__name__", hook), type(error).__name__, error)


def _authentication(auth: Any) -> Any:
    if isinstance(auth, str):
        if not auth or not _VALUE.fullmatch(auth):
            raise ConfigError("auth: the token holds what no HTTP header can hold; a line break at its end?")
        return _BearerAuth(auth)
    if isinstance(auth, tuple):
        try:
            "".join(auth).encode("latin-1")
        except UnicodeEncodeError:  # requests would fail; RFC 7617, section 2.1, has UTF-8
            return tuple(each.encode("utf-8", "surrogateescape") for each in auth)
    return auth


def _plain_words(error: BaseException) -> str:
    """Return the innermost cause: what requests and urllib3 wrap around it says nothing more."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen and len(seen) < 10:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = next((f"{type(e).__name__}: {e}" for e in reversed(seen) if str(e)), type(error).__name__)
    return one_line(text)


def _parts(url: str) -> SplitResult | None:
    """Return the parts of a URL, None when it has no form; what urllib would say of it may hold the password."""
    try:
        parts = urlsplit(url)
        return parts if parts.port != 0 else None
    except ValueError:
        return None
