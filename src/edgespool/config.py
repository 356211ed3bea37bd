"""Settings: what they are called, what they may be, and where they come from. The only reader of `os.environ`.

Every setting can be given as a keyword, as an environment variable `EDGESPOOL_<NAME>` and in a TOML file; a keyword
beats the environment, the environment beats the file. In the file a setting stands at the top level, or in a table
`[clients.<name>]` for the client of that name, which beats the top level.
"""

from __future__ import annotations

import difflib
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigError

__all__ = ["PREFIX", "Settings", "check_name", "config_file", "data_directory", "default_name", "load"]

PREFIX = "EDGESPOOL_"
_KIBIBYTE, _MEBIBYTE, _GIBIBYTE = 1 << 10, 1 << 20, 1 << 30
_LONGEST = 1e9  # seconds; thirty years
_DAY = 86_400.0  # more than a day the system's own calls do not wait at once


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty text is needed")
    if any("\ud800" <= c <= "\udfff" for c in value):  # bytes that are no UTF-8
        raise ValueError("text that is valid Unicode is needed")
    return value


def _name(value: Any) -> str:
    text = _text(value)
    if len(text) > 100 or not all(c.isalnum() or c in "._-" for c in text) or text.startswith("."):
        raise ValueError("letters, digits, '.', '_' and '-' only, no leading dot, at most 100 characters")
    return text


def _path(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError("a path is needed")
    return os.path.expanduser(text)


def _choice(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)} is needed")
        return str(value)

    return parse


def _number(low: float, high: float = _LONGEST) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, str):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise ValueError("a number is needed")
        if not low <= value <= high:
            raise ValueError(f"at least {low:g} and at most {high:g} is needed")
        return float(value)

    return parse


def _integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("a whole number is needed")
        if value < low or (high is not None and value > high):
            raise ValueError(f"at least {low}{f' and at most {high}' if high is not None else ''} is needed")
        return value

    return parse


def _bytes(low: int, high: int | None = None) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        factor = 1
        if isinstance(value, str):
            text = value.strip()
            for unit, size in (("KiB", _KIBIBYTE), ("MiB", _MEBIBYTE), ("GiB", _GIBIBYTE)):
                if text.lower().endswith(unit.lower()):
                    text, factor = text[: -len(unit)].strip(), size
            value = float(text) if factor > 1 else int(text)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < 1 << 60:
            raise ValueError("a whole number of bytes is needed, or text like '64 MiB'")
        if int(value * factor) != value * factor:
            raise ValueError("a whole number of bytes is needed, or text like '64 MiB'")
        if value * factor < low:
            raise ValueError(f"at least {low} bytes are needed")
        if high is not None and value * factor > high:
            raise ValueError(f"at most {high} bytes are possible")
        return int(value * factor)

    return parse


def _timeout(value: Any) -> tuple[float, float]:
    parse = _number(0.001, _DAY)
    if isinstance(value, str):
        value = value.split(",")
        value = value[0] if len(value) == 1 else value
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise ValueError("seconds, or two of them (connect, reply), are needed")
        return parse(value[0]), parse(value[1])
    return parse(value), parse(value)


def _headers(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [part.split("=", 1) for part in value.split(",") if part.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("'Name=value' pairs are needed, separated by commas")
        value = {name.strip(): content.strip() for name, content in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise ValueError("a mapping of text to text is needed")
    return dict(value)


def _auth(value: Any) -> Any:
    """Text with a colon is user:password, other text a bearer token; objects go to requests as they are."""
    if isinstance(value, str):
        user, colon, password = value.partition(":")
        return (user, password) if colon else _text(value)
    if isinstance(value, (list, tuple)):
        if len(value) != 2 or not all(isinstance(each, str) for each in value):
            raise ValueError("(user, password) is needed")
        return value[0], value[1]
    if not callable(value):
        raise ValueError("'user:password', a token, or an object as requests takes it is needed")
    return value


def _verify(value: Any) -> bool | str:
    if isinstance(value, str) and value.lower() in ("true", "false", "1", "0", "yes", "no"):
        return value.lower() in ("true", "1", "yes")
    return value if isinstance(value, bool) else _path(value)


def _cert(value: Any) -> str | tuple[str, str]:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _path(value[0]), _path(value[1])
    return _path(value)


def _optional(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or value in ("", "none") else parse(value)


def _setting(default: Any, parse: Callable[[Any], Any], text: str) -> Any:
    return field(default=default, metadata={"parse": parse, "text": text})


@dataclass(frozen=True)
class Settings:
    """All settings of a client, checked. `docs/configuration.md` lists them; a test holds the two together."""

    # repr=False: an address may hold a password, headers and auth do.
    url: str | None = field(
        default=None, repr=False, metadata={"parse": _text, "text": "where events are posted, http:// or https://"}
    )
    path: str | None = _setting(None, _path, "the queue's directory; default: one named after the client")
    name: str | None = _setting(None, _name, "the client's name; default: the script's")
    source: str | None = _setting(None, _text, "what the events say of where they come from; default: the host's name")
    format: str = _setting("cloudevents", _text, "cloudevents, json, or one that another package registered")
    headers: Mapping[str, str] | None = field(
        default=None, repr=False, metadata={"parse": _headers, "text": "headers sent with every request"}
    )
    auth: Any = field(
        default=None, repr=False, metadata={"parse": _auth, "text": "user:password, a bearer token, or a requests auth"}
    )
    keys: Mapping[str, str] | None = field(
        default=None, repr=False, metadata={"parse": _headers, "text": "keys by route, where a service has several"}
    )
    durability: str = _setting("power", _choice("power", "process"), "flushed to the device, or to the kernel only")
    sync_interval: float = _setting(1.0, _number(0.01, _DAY), "seconds between flushes at durability process")
    batch_size: int = _setting(500, _integer(1, 100_000), "events in one request, at most")
    # Not above half of what `failed.read` takes: given up, a batch goes to one file, with ids, and base64 at worst.
    batch_bytes: int = _setting(512 * _KIBIBYTE, _bytes(1024, 32 * _MEBIBYTE), "payload bytes in one request, at most")
    flush_interval: float = _setting(5.0, _number(0.0), "seconds an event waits for others to be sent with")
    timeout: tuple[float, float] = _setting((5.0, 30.0), _timeout, "seconds for a connection, and for the reply")
    compression: str = _setting("gzip", _choice("gzip", "none"), "of request bodies")
    verify: bool | str = _setting(True, _verify, "check certificates; or the path of a CA bundle")
    cert: str | tuple[str, str] | None = _setting(None, _optional(_cert), "client certificate: a path, or (cert, key)")
    max_bytes: int = _setting(_GIBIBYTE, _bytes(_MEBIBYTE), "disk budget of the queue in bytes")
    max_events: int | None = _setting(None, _optional(_integer(1)), "events that may wait; default: no limit")
    min_events: int = _setting(1, _integer(1), "events that must wait before any are sent")
    max_age: float | None = _setting(None, _optional(_number(1.0)), "seconds after which an unsent event is dropped")
    overflow: str = _setting(
        "reject", _choice("reject", "block", "drop_oldest", "drop_newest"), "what record() does when the queue is full"
    )
    max_attempts: int | None = _setting(
        None, _optional(_integer(1)), "failures after which a batch goes to a failed payload file; default: never"
    )
    max_rate: float | None = _setting(None, _optional(_number(0.001)), "events sent a second, at most")

    @property
    def directory(self) -> str:
        """The queue's directory, absolute."""
        return os.path.abspath(self.path) if self.path else os.path.join(data_directory(), self.client_name)

    @property
    def client_name(self) -> str:
        """The client's name, or the script's."""
        return self.name or default_name()

    @property
    def event_source(self) -> str:
        """What the events say of where they come from."""
        return self.source or platform.node() or self.client_name


_FIELDS = {each.name: each for each in fields(Settings)}


def data_directory() -> str:
    """Return where queues live: `$EDGESPOOL_DIR`, else `$STATE_DIRECTORY` (systemd), else the user's data folder.

    Raises:
        ConfigError: the user has no home directory, as one who is only a number in a container.
    """
    for variable in ("EDGESPOOL_DIR", "STATE_DIRECTORY"):
        value = os.environ.get(variable)
        if value:
            return os.path.abspath(value.split(":")[0] if variable == "STATE_DIRECTORY" else value)
    from platformdirs import user_data_dir

    folder = _of_user(user_data_dir)
    if folder is None:
        raise ConfigError(
            "path: the user has no home directory for the queue to be in: give its directory as `path`, or set "
            "EDGESPOOL_DIR to one for all queues"
        )
    return folder


def _of_user(folder: Callable[..., str]) -> str | None:
    """Return a folder of the user's, as platformdirs names it; None when the user has no home directory."""
    try:
        path = folder("edgespool", appauthor=False)
    except (RuntimeError, OSError, KeyError):
        return None
    return path if os.path.isabs(path) else None  # older releases leave the "~" as it is


def default_name() -> str:
    """Return the name of the running script, as a client's name."""
    script = sys.argv[0] if sys.argv and sys.argv[0] not in ("", "-c", "-m") else ""
    folder, file = os.path.split(script)
    stem = os.path.splitext(file)[0]
    if stem == "__main__":  # of a package or a folder: it is the one that has a name
        stem = os.path.basename(os.path.abspath(folder))
    cleaned = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).lstrip(".")[:100]
    return cleaned or "default"


def config_file() -> str | None:
    """Return the TOML file that is read when none is named: `$EDGESPOOL_CONFIG`, or the user's, or None."""
    named = os.environ.get(PREFIX + "CONFIG")
    if named:
        return named
    from platformdirs import user_config_dir

    folder = _of_user(user_config_dir)
    path = os.path.join(folder, "edgespool.toml") if folder is not None else ""
    return path if os.path.isfile(path) else None


def load(
    given: Mapping[str, Any],
    file: str | os.PathLike[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Settings:
    """Return the settings from keywords, environment and file.

    Args:
        given: keywords; those that are None count as not given.
        file: a TOML file; None: what `config_file` says.
        defaults: what holds where nobody says otherwise, in place of the settings' own defaults.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range, or the file cannot be read; the message
            names the setting and where it stands.
    """
    keywords = {name: value for name, value in given.items() if value is not None}
    for name in keywords:
        check_name(name, "keyword")
    chosen = {name: (value, name) for name, value in keywords.items()}
    for name in _FIELDS:
        variable = PREFIX + name.upper()
        if name not in chosen and os.environ.get(variable, "") != "":
            chosen[name] = (os.environ[variable], variable)
    path = os.fspath(file) if file is not None else config_file()
    if path is not None:
        client = chosen["name"][0] if "name" in chosen else None
        for key, value in _from_file(path, client).items():
            chosen.setdefault(key, (value, f"{path}: {key}"))
    for key, value in (defaults or {}).items():
        check_name(key, "default")
        chosen.setdefault(key, (value, key))
    values: dict[str, Any] = {}
    for key, (value, where) in chosen.items():
        try:
            values[key] = _FIELDS[key].metadata["parse"](value)
        except (ValueError, TypeError, OverflowError) as error:
            shown = "" if key in ("auth", "headers", "keys", "url") else f", not {value!r}"
            raise ConfigError(f"{where}: {error}{shown}") from None
    return Settings(**values)


def check_name(name: str, where: str, others: Iterable[str] = ()) -> None:
    """Raise ConfigError unless there is a setting of that name; it names the nearest that there is.

    Args:
        name: as given.
        where: where it stands.
        others: more names that may have been meant.
    """
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, [*others, *_FIELDS], 1)
        raise ConfigError(f"{where}: there is no setting {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def _from_file(path: str, name: str | None) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:  # pragma: no cover
        import tomli as tomllib
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"the configuration file {path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # a syntax error, no UTF-8, a number of 10,000 digits, a nest
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from None
    clients = content.pop("clients", {})
    if not isinstance(clients, dict) or not all(isinstance(each, dict) for each in clients.values()):
        raise ConfigError(f"{path}: 'clients' must hold a table for each client, like [clients.kitchen]")
    for key in content:
        check_name(key, path)
    for client, table in clients.items():
        for key in table:
            check_name(key, f"{path}: [clients.{client}]")
    own = clients.get(str(name or content.get("name") or default_name()), {})
    return {**content, **own}
