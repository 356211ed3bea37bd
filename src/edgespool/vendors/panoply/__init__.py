"""Panoply (`panoply-python-sdk`, `import panoply`) on the durable queue.

    api.py    what `import panoply` gives: `SDK`, `DataSource`, `validate_token`, `PanoplyException`
    events.py, errors.py, datasource.py, constants.py    its parts, under the names that the original has
    runner.py    runs a data source as the platform does; behind `edgespool source run`
    format.py, dialect.py, device.py     the wire, how the collector reads it, and a device that uses it

Importing this package imports none of them.
"""

from __future__ import annotations

__all__ = ["IMPORTS"]

#: The original's import names, and the module of ours that answers to each.
IMPORTS: dict[str, str] = {
    "panoply": "edgespool.vendors.panoply.api",
    "panoply.constants": "edgespool.vendors.panoply.constants",
    "panoply.datasource": "edgespool.vendors.panoply.datasource",
    "panoply.errors": "edgespool.vendors.panoply.errors",
    "panoply.events": "edgespool.vendors.panoply.events",
    "panoply.sdk": "edgespool.vendors.panoply.api",
}
