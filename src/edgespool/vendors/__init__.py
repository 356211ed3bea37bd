"""The public interfaces of existing SDKs, each on the durable queue: one folder a vendor, found by its name.

What a folder holds, and who looks for it:

    __init__.py   `IMPORTS`: the original's import names, and which module of ours answers to each   (dropin.py)
    api.py        the original's public interface; the only part its users see
    format.py     `FORMAT`: a callable (source: str) -> Format; the wire                  (formats, replay)
    dialect.py    `DIALECT`: how the collector reads that wire                            (testing)
    device.py     `Device`: the interface used as its users would; for the demo, the contract suite, the benchmark

A new vendor is a new folder; nothing else changes. Vendors know nothing of each other.
"""
