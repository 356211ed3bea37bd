"""Credentials, and all the ways in which a server or a library may spell them: found, and cut out of texts. A leaf.

What a server says goes into logs, `stats()`, `sender.json` and failed payload files, and servers repeat what they were
sent. urllib3 writes addresses with their query strings into its own log; there they are cut out as well.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
import re
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from .outcome import one_line

__all__ = ["Redactor"]

_REDACTED = "[redacted]"
_SHORTEST_SECRET = 4  # characters; shorter ones would blank out half of every message
# Headers that are no credentials, whatever they hold.
_HARMLESS = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "connection", "content-digest",
    "content-encoding", "content-length", "content-type", "date", "expect", "host", "idempotency-key", "origin",
    "pragma", "prefer", "te", "traceparent", "tracestate", "transfer-encoding", "user-agent", "x-correlation-id",
    "x-request-id",
})  # fmt: skip
# Of the others, one whose name says so holds a credential, and one whose name ends so and says nothing of the kind
# holds none. Of one whose name says neither nobody knows, and it is taken for secret.
_TELLING = ("auth", "bearer", "cookie", "cred", "jwt", "key", "pass", "secret", "session", "sig", "token")
_PLAIN = frozenset({
    "agent", "channel", "device", "encoding", "environment", "fleet", "format", "language", "location", "model",
    "platform", "region", "site", "source", "tenant", "timestamp", "timezone", "type", "version",
})  # fmt: skip
_PARTS = re.compile(r"[-_]")  # of a header's name
_SHORTEST_TOKEN = 8  # characters of what may be a token after a word that names its kind
_LOGGERS = ("urllib3.connection", "urllib3.connectionpool", "urllib3.poolmanager", "urllib3.util.retry")


class Redactor:
    """Knows one destination's secrets.

    Args:
        url: whose user, password and query values are secret.
        headers: sent with every request.
        auth: ``(user, password)``, a bearer token, or an object, of which nothing is known.
    """

    def __init__(self, url: str, headers: Mapping[str, str], auth: Any) -> None:
        self._given: set[str] = {*_in_url(url), *_in_headers(headers)}
        if isinstance(auth, str):
            self._given.add(auth)
        elif isinstance(auth, Sequence):
            self._given |= {*_pair(*auth)}
        self._spelled = _spellings(self._given)
        self._sent: set[str] = set()
        _watch(self)

    def learn(self, secrets: Iterable[str]) -> None:
        """Take these for secret, too, from now on."""
        found = set(secrets)
        if not found <= self._given:
            self._given |= found
            self._spelled = _spellings(self._given | self._sent)

    def learn_proxies(self, proxies: Mapping[str, str]) -> None:
        """Take the credentials in the addresses of proxies for secret, too."""
        self.learn(
            secret for url in proxies.values() if isinstance(url, str) for secret in _in_url(url, query=False)
        )

    def learn_sent(self, headers: Mapping[str, str | bytes], known: Collection[str] = ()) -> None:
        """Take the credentials in a request's headers for secret until the next: more than the settings hold.

        Args:
            headers: all that was sent.
            known: names of headers that need no look, in lower case: what is secret in them was learned.
        """
        found = set(_in_headers({name: value for name, value in headers.items() if name.lower() not in known}))
        if found != self._sent:
            self._sent = found
            self._spelled = _spellings(self._given | found)

    def clean(self, text: str) -> str:
        """Return foreign text as one printable line without any secret."""
        secrets = self._spelled
        text = one_line(_without(text, secrets), 1000)
        # The text may be an excerpt, and its end may cut a secret in two.
        body = text.removesuffix("…").removesuffix("\ufffd")
        for secret in secrets:
            for length in range(min(len(secret) - 1, len(body)), _SHORTEST_SECRET - 1, -1):
                if body.endswith(secret[:length]):
                    return body[:-length] + _REDACTED
        return text

    def cut(self, text: str) -> str:
        """Return the text without any whole secret, and otherwise as it was."""
        return _without(text, self._spelled)


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _REDACTED)
    return text


def _in_url(url: str, *, query: bool = True) -> list[str]:
    # By hand: urllib fails at some addresses, and those are the ones that get repeated.
    before, _, asked = url.partition("?")
    user, _, password = before.partition("//")[2].partition("/")[0].rpartition("@")[0].partition(":")
    found = [user, password, *_pair(unquote(user), unquote(password))]
    return found + ([value for _, value in parse_qsl(asked.partition("#")[0])] if query else [])


def _pair(user: object, password: object) -> Iterable[str]:
    """Yield a user and a password, and what basic authentication makes of them."""
    texts = [each.decode("utf-8", "replace") if isinstance(each, bytes) else str(each) for each in (user, password)]
    yield from texts
    if any(texts):
        for coding in ("latin-1", "utf-8"):
            yield base64.b64encode(":".join(texts).encode(coding, "replace")).decode().rstrip("=")


def _in_headers(headers: Mapping[str, str | bytes]) -> list[str]:
    """Return the values of headers that may be credentials, whole and in their parts."""
    found: list[str] = []
    for name, content in headers.items():
        if _may_be_secret(name.lower()):
            value = content.decode("latin-1") if isinstance(content, bytes) else content
            found.append(value)
            rest = value.partition(" ")[2]
            if "auth" in name.lower() or (len(rest) >= _SHORTEST_TOKEN and " " not in rest):
                found.append(rest)  # what follows the scheme
            if name.lower() == "cookie":
                found += [part.partition("=")[2].strip() for part in value.split(";")]
            elif value.startswith("Basic "):
                with contextlib.suppress(ValueError):
                    pair = base64.b64decode(value[6:])
                    found += [part for coding in ("utf-8", "latin-1") for part in pair.decode(coding).split(":", 1)]
    return found


def _may_be_secret(name: str) -> bool:
    """Whether a header of this name, in lower case, may hold a credential."""
    if name in _HARMLESS:
        return False
    return any(word in name for word in _TELLING) or _PARTS.split(name)[-1] not in _PLAIN


def _spellings(secrets: Iterable[str]) -> list[str]:
    """Return the secrets in all the ways in which they may be spelled, longest first."""
    spelled: set[str] = set()
    for secret in secrets:
        if secret:
            plain = unquote(secret)
            raw = plain.encode("utf-8", "surrogateescape")
            quoted = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
            spelled |= {secret, plain, *quoted, *map(_lower_escapes, quoted), html.escape(plain), one_line(plain)}
            spelled |= {json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1]}
            spelled.add(repr(plain.encode("latin-1", "replace"))[2:-1])
    return sorted((each for each in spelled if len(each) >= _SHORTEST_SECRET), key=len, reverse=True)


def _lower_escapes(text: str) -> str:
    """Return percent-encoded text with its hexadecimal digits in lower case."""
    first, *rest = text.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in rest)])


_watched: weakref.WeakSet[Redactor] = weakref.WeakSet()


class _Filter(logging.Filter):
    """Cuts secrets out of what urllib3 logs: request lines with their query, and addresses in warnings."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it must be changed; keep it."""
        try:
            said = message = record.getMessage()
            trouble = str(record.exc_info[1]) if record.exc_info else ""
            for redactor in list(_watched):
                message = redactor.cut(message)
                if trouble and redactor.cut(trouble) != trouble:
                    record.exc_info = record.exc_text = None
            if message != said:
                record.msg, record.args = message, ()
        except Exception:  # noqa: BLE001 - a log line that cannot be formed is the business of logging itself
            return True
        return True


_filter = _Filter()


def _watch(redactor: Redactor) -> None:
    _watched.add(redactor)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_filter)  # once, however often
