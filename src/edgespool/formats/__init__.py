"""How a batch becomes a request and what the reply means: one module a format.

A third party adds a format by an entry point in the group `edgespool.formats` that names a callable
`(source: str) -> Format`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import ConfigError
from ..interfaces import Format

__all__ = ["ENTRY_POINTS", "create", "names"]

ENTRY_POINTS = "edgespool.formats"

_BUILT_IN = {"cloudevents": "CloudEvents", "json": "PlainJson"}


def names() -> list[str]:
    """Return the names of all formats that are installed, sorted."""
    from importlib.metadata import entry_points

    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def create(name: str, source: str) -> Format:
    """Return a new format.

    Args:
        name: ``"cloudevents"``, ``"json"`` or a name that an installed package registered.
        source: what the events say of where they come from.

    Raises:
        ConfigError: there is no such format, or what was registered is not one.
    """
    factory: Callable[[str], object]
    if name in _BUILT_IN:
        factory = getattr(import_module(f"{__name__}.{name}"), _BUILT_IN[name])
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
