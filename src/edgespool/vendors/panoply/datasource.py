"""The building blocks of data sources. Knows no queue: whoever runs a source listens to its events.

Events, as the original fires them: `source-change` (changed parameters), `source-state` (`{"stateId", "state"}`),
`progress` (`{"loaded", "total", "msg"}`).
"""

from __future__ import annotations

import base64
import functools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ...failed import public_url
from ...redaction import Redactor
from .errors import PanoplyException
from .events import Emitter

__all__ = ["DataSource", "PanoplyException", "validate_token"]

_log = logging.getLogger("edgespool")
_TIMEOUT = (5.0, 30.0)  # seconds for a connection, and for the reply, of the server that refreshes tokens
_LARGEST = 1 << 20  # bytes of its reply; a token takes some thousand
_PIECE = 8 * 1024  # bytes read at a time: compressed, a small piece may unfold to a thousand times as much


class DataSource(Emitter):
    """The base of a data source: `read` is yours to write, the other methods are here.

    Args:
        source: the source's parameters; kept as the attribute `source`. `destination` is the table that rows go to.
        options: what else there is to know, e.g. secrets that are not part of the parameters, a `logger` to call with
            what is logged (a tuple), and `events`, a mapping of event names to handlers; kept as `options`.
    """

    def __init__(self, source: dict[str, Any], options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.source = source
        self.options: dict[str, Any] = {} if options is None else options
        # From the very beginning: a constructor may refresh a token, and the new one must not be missed.
        handlers = self.options.get("events")
        if isinstance(handlers, Mapping):
            for name, fn in handlers.items():
                self.on(name, fn)

    def read(self, n: int | None = None) -> list[dict[str, Any]] | None:
        """Return the next rows, about `n` of them, or None when all have been read. Write your own."""
        raise NotImplementedError(f"{type(self).__name__}.read")

    def close(self) -> None:
        """Let go of whatever the source holds; called in any case. There is nothing unless you say so."""

    def log(self, *msgs: Any) -> None:
        """Log a message: to `options["logger"]`, which gets them as one tuple, or else to the logger `edgespool`.

        Never log credentials.
        """
        logger = self.options.get("logger")
        if logger is not None:
            logger(msgs)
        else:
            _log.info("%s", " ".join(map(str, msgs)))

    def state(self, state_id: Any, state: Mapping[str, Any]) -> None:
        """Say how far the collection has come.

        Args:
            state_id: unique for each batch; the rows that belong to it carry it under the key `__state`.
            state: what to know in order to go on from there. All states are merged into one.
        """
        self.fire("source-state", {"stateId": state_id, "state": state})

    def progress(self, loaded: int, total: int, msg: str = "") -> None:
        """Say that `loaded` of `total` things are loaded: rows, files, calls; `msg` says it in words."""
        self.fire("progress", {"loaded": loaded, "total": total, "msg": msg})

    def raw(self, tag: str, raw: bytes | str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return a raw message as a row: bytes as they are, in base64.

        Args:
            tag: links the message to its metadata, e.g. a file's name.
            raw: the message; text is taken as UTF-8.
            metadata: fields to append to the message, e.g. ``{"__state": "my-state-id"}``.
        """
        content = raw.encode("utf-8") if isinstance(raw, str) else raw
        # As text: JSON knows no bytes.
        return {"type": "raw", "tag": tag, "raw": base64.b64encode(content).decode("ascii"), "metadata": metadata}


def validate_token(
    refresh_url: str,
    exceptions: type[BaseException] | tuple[type[BaseException], ...] = (),
    callback: str | Callable[[Any], Any] | None = None,
    access_key: str = "access_token",
    refresh_key: str = "refresh_token",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for a data source's method that needs a valid OAuth2 token.

    When the method raises one of `exceptions`, `options["refresh"]` and the refresh token are posted to `refresh_url`
    (a form; the reply is JSON, 1 MiB at most; a redirect is not followed), the new access token is put into `source`,
    `source-change` is fired with it, `callback` is called with it, and the method is called once more.

    Args:
        refresh_url: where a token is refreshed.
        exceptions: those that mean that the token is no longer valid; none by default.
        callback: a callable, or the name of a method of the source.
        access_key: what the access token is called, in the source and in the reply.
        refresh_key: what the refresh token is called, in the source and in the request.

    Raises:
        PanoplyException: not retryable: the token cannot be refreshed, or the method raises one of `exceptions` even
            with the new token; no secret is in its text. Other exceptions of the second call are passed on as they are.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapper(self: DataSource, *args: Any, **kwargs: Any) -> Any:
            try:
                return method(self, *args, **kwargs)
            except exceptions:
                self.log("Revalidating the access token...")
            redactor = _redactor(self, refresh_url, access_key, refresh_key)
            try:
                token = _refreshed(self, refresh_url, access_key, refresh_key)
                redactor.learn([str(token)])
                self.source[access_key] = token
                self.fire("source-change", {access_key: token})
                if callback is not None:
                    notify = callback if callable(callback) else getattr(self, callback)
                    notify(token)
            except Exception as error:  # noqa: BLE001 - whatever it was, the token is not valid
                self.log(f"Error: the access token can't be revalidated ({type(error).__name__}); authenticate again")
                said = redactor.clean(str(error) or type(error).__name__)
                # Without the cause: what requests says of a failure has the whole address in it.
                raise PanoplyException(f"access token could not be refreshed ({said})", retryable=False) from None
            try:
                return method(self, *args, **kwargs)
            except exceptions as error:
                self.log("Error: the new access token is not accepted either; authenticate again")
                said = redactor.clean(str(error) or type(error).__name__)
                raise PanoplyException(f"access token could not be refreshed ({said})", retryable=False) from error

        return wrapper

    return decorate


def _redactor(source: DataSource, url: str, access_key: str, refresh_key: str) -> Redactor:
    """Return what cuts out of texts, and out of urllib3's log, all that a refresh must not tell."""
    redactor = Redactor(url, {}, None)
    given = source.options.get("refresh")
    form = {name: value for name, value in given.items() if name != "grant_type"} if isinstance(given, Mapping) else {}
    tokens = [source.source.get(access_key), source.source.get(refresh_key)]
    redactor.learn(str(value) for value in (*form.values(), *tokens) if value is not None)
    return redactor


def _refreshed(source: DataSource, url: str, access_key: str, refresh_key: str) -> Any:
    """Return a new access token.

    Raises:
        PanoplyException: the server redirects, sends too much, or sends no token.
        Exception: it cannot be reached, or there is nothing to ask it with.
    """
    import requests  # slow to import, and seldom needed

    form = {**source.options["refresh"], refresh_key: source.source.get(refresh_key)}
    place = public_url(url)
    # Redirects are not followed: the secrets in the form would go along, to whatever host is named.
    with requests.post(url, data=form, timeout=_TIMEOUT, stream=True, allow_redirects=False) as reply:
        if 300 <= reply.status_code < 400:
            raise PanoplyException(f"{place} answered {reply.status_code}: a redirect is not followed with secrets")
        content = bytearray()
        for piece in reply.iter_content(_PIECE):
            content += piece
            if len(content) > _LARGEST:
                raise PanoplyException(f"{place} sends more than {_LARGEST >> 20} MiB: that is no token")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise PanoplyException(f"{place} answered {reply.status_code} with what is no JSON") from None
    if not isinstance(found, dict) or access_key not in found:
        raise PanoplyException(f"{place} answered {reply.status_code} without a field {access_key!r}")
    return found[access_key]
