"""PaltaBrain's addresses and headers, for events and for the config module alike. A leaf."""

from __future__ import annotations

from urllib.parse import urlsplit

from ...errors import ConfigError

__all__ = ["BATCH_PATH", "SCHEMA_PATH", "SDK_NAME", "SDK_VERSION", "address", "headers"]

BATCH_PATH = "/v2/paltabrain"
SCHEMA_PATH = "/v2/schema/sdk_python.zip"
SDK_NAME = "PALTABRAIN_PYTHON"
SDK_VERSION = "0.7.2"  # of the original whose wire this is


def address(hostname: str, path: str) -> str:
    """Return the URL of a path on a host.

    Args:
        hostname: a bare host (then https), or an address with a scheme and perhaps a path of its own; one that ends in
            `path` is complete.
        path: BATCH_PATH or SCHEMA_PATH.

    Raises:
        ConfigError: this is no host.
    """
    url = hostname if "://" in hostname else f"https://{hostname}"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError
    except ValueError:  # what it says may hold a password
        raise ConfigError("hostname: a host such as telemetry.example.com is needed, or https://host") from None
    url = url.rstrip("/")
    return url if url.endswith(path) else url + path


def headers(api_key: str) -> dict[str, str]:
    """Return the headers of every request, the time of an upload apart."""
    return {
        "Content-Type": "application/protobuf",
        "X-API-Key": api_key,
        "X-SDK-Name": SDK_NAME,
        "X-SDK-Version": SDK_VERSION,
    }
