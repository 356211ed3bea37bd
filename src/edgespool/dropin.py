"""Gives vendors' modules their original import names, so that programs written for them run as they are.

    import edgespool.dropin
    edgespool.dropin.install("isstreamer")      # from here on, `from ISStreamer.Streamer import Streamer` is ours

`edgespool run SCRIPT` does it for all of them. Which names there are stands in the vendors' own folders (`IMPORTS`). It
makes no difference whether the original is installed: what is served here is never looked for elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from .errors import ConfigError

__all__ = ["install", "names", "serve_children", "uninstall"]

_VENDORS = "edgespool.vendors"


def _imports() -> dict[str, Mapping[str, str]]:
    """Return, for each vendor, the import names that it answers to."""
    package = importlib.import_module(_VENDORS)
    found = {}
    for place in pkgutil.iter_modules(package.__path__):
        if place.ispkg:
            served: Mapping[str, str] | None = getattr(
                importlib.import_module(f"{_VENDORS}.{place.name}"), "IMPORTS", None
            )
            if served:
                found[place.name] = served
    return found


def names() -> dict[str, list[str]]:
    """Return the import names that can be served, sorted, by vendor."""
    return {vendor: sorted(served) for vendor, served in sorted(_imports().items())}


def install(*wanted: str) -> list[str]:
    """Serve the original import names of these vendors from now on, and return them, sorted.

    Args:
        wanted: a vendor's name here (``"initialstate"``) or its original package's (``"ISStreamer"``, in any case);
            none at all: all vendors.

    Raises:
        ConfigError: there is no such vendor, or the program has imported the original already.
    """
    imports = _imports()
    known = {alias: vendor for vendor, served in imports.items() for alias in _aliases(vendor, served)}
    unknown = [name for name in wanted if name.lower() not in known]
    if unknown:
        raise ConfigError(f"there is no drop-in for {', '.join(map(repr, unknown))}; there are {', '.join(imports)}")
    chosen = dict.fromkeys(known[name.lower()] for name in wanted) if wanted else imports
    served = {name: target for vendor in chosen for name, target in imports[vendor].items()}
    taken = [name for name in served if name in sys.modules and not isinstance(sys.modules[name], _Alias)]
    if taken:
        raise ConfigError(
            f"{', '.join(sorted(taken))}: imported already; call edgespool.dropin.install before the first import of it"
        )
    _finder.served.update(served)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    return sorted(served)


def uninstall() -> None:
    """Serve nothing any more; what has been imported so far stays with those who have it."""
    _finder.served.clear()
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    for name, module in list(sys.modules.items()):
        if isinstance(module, _Alias):
            del sys.modules[name]


def serve_children() -> None:
    """Serve all names in the processes, too, that multiprocessing starts from now on; those it forks have them anyway.

    A process that begins with a new interpreter imports the program's main module first of all, and with it the names.
    Before that it unpickles what it needs to prepare itself: this is put there.
    """
    import multiprocessing.spawn  # here: nobody else needs it

    prepare = multiprocessing.spawn.get_preparation_data
    if isinstance(prepare, _Preparation):
        return
    multiprocessing.spawn.get_preparation_data = _Preparation(prepare)
    # A fork server unpickles nothing. By default it imports the main module, for speed alone.
    multiprocessing.set_forkserver_preload([])


class _Preparation:
    """Makes what a process of multiprocessing prepares itself with."""

    def __init__(self, prepare: Callable[[str], dict[str, Any]]) -> None:
        self._prepare = prepare

    def __call__(self, name: str) -> dict[str, Any]:
        return {"edgespool": _Served(), **self._prepare(name)}  # what it does not know it passes over


class _Served:
    """Serves all names wherever it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _serve_here, ()


def _serve_here() -> None:
    install()
    serve_children()


def _aliases(vendor: str, served: Mapping[str, str]) -> set[str]:
    return {vendor, *(name.partition(".")[0].lower() for name in served)}


class _Alias(ModuleType):
    """A module under the original's name, with what the module of ours has."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for the names that are served, and for all below their packages."""

    def __init__(self) -> None:
        self.served: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return how to load a name; None for what is not ours."""
        if fullname in self.served:
            is_package = any(name.startswith(f"{fullname}.") for name in self.served)
            return importlib.machinery.ModuleSpec(fullname, self, origin="edgespool", is_package=is_package)
        package = fullname.partition(".")[0]
        if package in self.served:
            ours = ", ".join(sorted(name for name, target in self.served.items() if target and _in(name, package)))
            raise ModuleNotFoundError(
                f"edgespool stands in for the package {package!r}, and serves no module {fullname!r}: there are {ours}",
                name=fullname,
            )
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return the module under the original's name."""
        return _Alias(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Fill it with what ours has."""
        name = module.__name__
        package, target = name.partition(".")[0], self.served[name]
        if target:
            ours = importlib.import_module(target)
            module.__doc__ = ours.__doc__
            for attribute, value in vars(ours).items():
                if not (attribute.startswith("__") and attribute != "__all__"):
                    module.__dict__.setdefault(attribute, value)

        def missing(attribute: str) -> object:
            raise AttributeError(
                f"module {name!r} has no attribute {attribute!r} (edgespool stands in for the package {package!r})"
            )

        module.__dict__.setdefault("__getattr__", missing)


def _in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


_finder = _Finder()
