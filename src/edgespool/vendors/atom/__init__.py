"""The ironSource Atom SDK for Python (1.5.1) on the durable queue: `IronSourceAtom` and `IronSourceAtomTracker`.

Source of the public interface: the README of ironsource-atom 1.5.1; of the wire: what its client sends.

    api.py            the two classes, as their users know them
    config.py         the defaults, under the original's names
    event_storage.py  the backlog that users may replace by their own
    backlog.py        how events get from a user's backlog to the disk, and when `track` waits
    direct.py         one request, sent at once: the low-level interface
    format.py         the wire
    keys.py           HMAC keys, in memory only
"""

from __future__ import annotations

__all__ = ["IMPORTS"]

#: Import names of the original, and the modules of ours that answer to them.
IMPORTS: dict[str, str] = {
    "ironsource": "",
    "ironsource.atom": "",
    "ironsource.atom.config": "edgespool.vendors.atom.config",
    "ironsource.atom.event": "edgespool.vendors.atom.event_storage",
    "ironsource.atom.event_storage": "edgespool.vendors.atom.event_storage",
    "ironsource.atom.ironsource_atom": "edgespool.vendors.atom.api",
    "ironsource.atom.ironsource_atom_tracker": "edgespool.vendors.atom.api",
    "ironsource.atom.queue_event_storage": "edgespool.vendors.atom.event_storage",
    "ironsource.atom.response": "edgespool.vendors.atom.direct",
}
