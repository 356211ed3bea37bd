"""Samsara's client SDK on the durable queue: `SamsaraClient`, as the package `samsara_sdk` has it.

See `docs/vendors/samsara.md`. Importing this module loads nothing else.
"""

from __future__ import annotations

__all__ = ["IMPORTS"]

#: The original's import names, and which module of ours answers to each.
IMPORTS: dict[str, str] = {
    "samsara_sdk": "edgespool.vendors.samsara.api",
    "samsara_sdk.client": "edgespool.vendors.samsara.api",
    "samsara_sdk.constants": "edgespool.vendors.samsara.helpers",
    "samsara_sdk.helpers": "edgespool.vendors.samsara.helpers",
}
