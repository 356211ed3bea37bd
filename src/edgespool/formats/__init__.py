"""How a batch becomes a request and what the reply means: one module a format.

A third party adds a format by an entry point in the group `edgespool.formats` that names a callable
`(source: str) -> Format`. A vendor's package has such a callable as `FORMAT` in its module `format`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Protocol, runtime_checkable

from ..config import Settings
from ..errors import ConfigError
from ..interfaces import Format

__all__ = ["ENTRY_POINTS", "Service", "create", "names"]

ENTRY_POINTS = "edgespool.formats"

_VENDORS = "edgespool.vendors"  # found by their folders: nothing here has to be changed for a new one
_BUILT_IN = {"cloudevents": "CloudEvents", "json": "PlainJson"}


@runtime_checkable
class Service(Protocol):
    """What a format may be besides: one that speaks for a certain service, and knows its address and its credentials.

    Credentials come from the settings or from the program, live in memory, and never go to the disk.
    """

    def configure(self, settings: Settings) -> Settings:
        """Take the credentials from the settings; return the settings to send with: what is ours alone taken out
        (`auth` would go out as an Authorization header), and what the service fixes (its `url`) filled in.

        Raises:
            ConfigError: something that is needed is missing or malformed.
        """
        ...

    def secrets(self) -> Iterable[str]:
        """Return the credentials in use, so that they can be cut out of what servers say."""
        ...


def names() -> list[str]:
    """Return the names of all formats that are installed, sorted."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *_vendors(), *(point.name for point in entry_points(group=ENTRY_POINTS))})


def _vendors() -> list[str]:
    spec = find_spec(_VENDORS)
    places = spec.submodule_search_locations if spec is not None else None
    return [place.name for place in iter_modules(places) if place.ispkg] if places else []


def create(name: str, source: str) -> Format:
    """Return a new format.

    Args:
        name: ``"cloudevents"``, ``"json"``, a vendor's name, or a name that an installed package registered.
        source: what the events say of where they come from.

    Raises:
        ConfigError: there is no such format, it needs a library that is not installed, or what was registered is no
            format.
    """
    factory: Callable[[str], object]
    if name in _BUILT_IN:
        factory = getattr(import_module(f"{__name__}.{name}"), _BUILT_IN[name])
    elif name in _vendors():
        try:
            factory = import_module(f"{_VENDORS}.{name}.format").FORMAT
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == _VENDORS.partition(".")[0]:
                raise  # one of our own modules: a mistake, not an absent extra
            raise ConfigError(
                f"format: {name!r} needs {error.name}, which is not installed: pip install 'edgespool[{name}]'"
            ) from None
    else:
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        for point in entry_points(group=ENTRY_POINTS):
            if point.name == name:
                factory = point.load()
                break
        else:
            raise ConfigError(f"format: there is no {name!r}; there are {', '.join(names())}")
    made = factory(source)
    if not isinstance(made, Format):
        raise ConfigError(f"format: what {name!r} stands for is not a Format (see edgespool.interfaces)")
    return made
