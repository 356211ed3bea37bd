"""The version of the original streamer whose interface and wire these are. A leaf."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "2.0.0"
