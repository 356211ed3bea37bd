"""The streamer's ini file: where it is looked for, and what stands in it. Knows no client and no network.

    [isstreamer.client_config]
    access_key = ...
    default_bucket = Kitchen
    offline_mode = false
    offline_file = ./isstreamer_out.csv

    [isstreamer.api_config]
    stream_api_base = https://groker.init.st

It is `isstreamer.ini` in the home directory, else in the current one, unless a file is named. Any section, and any line
of it, may be missing.
"""

from __future__ import annotations

import configparser
import os

from ...errors import ConfigError

__all__ = ["BASE", "getConfig"]

#: The service's own address.
BASE = "https://groker.init.st"

_FILE = "isstreamer.ini"
_CLIENT, _API = "isstreamer.client_config", "isstreamer.api_config"
_OPTIONS = {
    "bucket": (_CLIENT, "default_bucket"),
    "access_key": (_CLIENT, "access_key"),
    "offline_mode": (_CLIENT, "offline_mode"),
    "offline_file": (_CLIENT, "offline_file"),
    "stream_api_base": (_API, "stream_api_base"),
}
_DEFAULTS = {
    "bucket": "",
    "access_key": "",
    "offline_mode": "false",
    "offline_file": "./isstreamer_out.csv",
    "stream_api_base": BASE,
}


def getConfig(ini_file_location: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Return `bucket`, `access_key`, `offline_mode`, `offline_file` and `stream_api_base`, or their defaults.

    Args:
        ini_file_location: the file to read; None: the one in the home directory or in the current one, if there is one.

    Raises:
        ConfigError: the named file does not exist, a file cannot be read or is no ini file, or `stream_api_base` is no
            http:// or https:// address.
    """
    found = dict(_DEFAULTS)
    if ini_file_location is None:
        places = (os.path.join(os.path.expanduser("~"), _FILE), os.path.join(os.getcwd(), _FILE))
        path = next(filter(os.path.exists, places), None)
        if path is None:
            return found
    else:
        path = os.fspath(ini_file_location)
        if not os.path.exists(path):
            raise ConfigError(f"ini_file_location: {path} does not exist or cannot be reached")
    parser = configparser.ConfigParser(interpolation=None)  # a key may hold a percent sign
    try:
        with open(path, encoding="utf-8-sig") as file:
            parser.read_file(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (configparser.Error, UnicodeDecodeError) as error:
        # No more of it: the parser quotes the line at fault, and that may be the one with the key.
        raise ConfigError(f"{path} is no ini file ({type(error).__name__})") from None
    for name, (section, option) in _OPTIONS.items():
        found[name] = parser.get(section, option, fallback=found[name])
    if not found["stream_api_base"].startswith(("http://", "https://")):
        raise ConfigError(f"{path}: stream_api_base must begin with http:// or https://")
    return found
