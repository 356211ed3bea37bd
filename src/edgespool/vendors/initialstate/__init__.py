"""Initial State's Python streamer (package ISStreamer), on the durable queue.

    from edgespool.vendors.initialstate.api import Streamer

`api` is the interface, `configutil` its ini files, `offline` its CSV files, `format` the wire, `dialect` the
collector's reading of it, `device` the interface in use. The wire is that of ISStreamer 2.0.0 and of Initial State's
events API.
"""

from __future__ import annotations

__all__ = ["IMPORTS"]

#: The original's import names, and the modules that answer to them; "" is a bare package.
IMPORTS: dict[str, str] = {
    "ISStreamer": "",
    "ISStreamer.Streamer": "edgespool.vendors.initialstate.api",
    "ISStreamer.configutil": "edgespool.vendors.initialstate.configutil",
    "ISStreamer.version": "edgespool.vendors.initialstate.version",
}
