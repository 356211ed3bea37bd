"""Which destination a URL stands for. HTTP is built in; another scheme comes from an installed package.

A third party adds a transport by an entry point in the group `edgespool.destinations`, named after the URL's scheme,
that stands for a callable `(settings: Settings, format: Format) -> Destination`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .config import Settings
from .errors import ConfigError
from .formats import Service
from .interfaces import Destination, Format, Watch

if TYPE_CHECKING:
    import requests

__all__ = ["ENTRY_POINTS", "create"]

ENTRY_POINTS = "edgespool.destinations"


def create(
    settings: Settings, format: Format, session: requests.Session | None = None, watch: Watch | None = None
) -> Destination:
    """Return a new destination for the settings' URL, or the one of the service that the format speaks for.

    Raises:
        ConfigError: there is no URL, nothing serves its scheme, or it cannot be used.
    """
    if isinstance(format, Service):
        settings = format.configure(settings)
    if not settings.url:
        raise ConfigError("url: where should events be sent? Give a URL, EDGESPOOL_URL, or name it in the TOML file")
    try:
        scheme = urlsplit(settings.url).scheme
    except ValueError:  # what it says may hold the password
        raise ConfigError("url: this is no address of the form http://host/path") from None
    if scheme not in ("http", "https"):
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        for point in entry_points(group=ENTRY_POINTS):
            if point.name == scheme:
                made = point.load()(settings, format)
                if not isinstance(made, Destination):
                    raise ConfigError(f"url: what {scheme!r} stands for is no Destination (see edgespool.interfaces)")
                return made
        what = f"one that begins with {scheme + ':'!r}" if scheme else "one without either"
        raise ConfigError(f"url: an http:// or https:// address is needed, not {what}")
    from .http import HttpDestination

    return HttpDestination(
        settings.url,
        format,
        headers=settings.headers,
        auth=settings.auth,
        timeout=settings.timeout,
        compression=settings.compression,
        verify=settings.verify,
        cert=settings.cert,
        session=session,
        watch=watch,
    )
