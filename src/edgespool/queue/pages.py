"""Reads rows out of the pages of a damaged SQLite file, in pure Python. Writes nothing, trusts nothing.

Sources: the SQLite file format (https://www.sqlite.org/fileformat2.html): b-tree pages (1.6), freelist (1.5), pointer
map (1.8), record format (2.1). SQLite itself gives up a whole table when a page in the way is broken; here every leaf
page speaks for itself, and a row counts only when its own checksum fits.

A page that was freed keeps its rows: events that were delivered long ago. Three things say which pages are free (the
freelist, the pointer map, and the tree, which does not lead there) and no single broken page can make two of them lie.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from . import rawfile
from .wal import Wal

__all__ = ["MAGIC", "Pages", "unreadable"]

_TABLE_LEAF, _TABLE_NODE, _INDEX_LEAF, _INDEX_NODE = 0x0D, 0x05, 0x0A, 0x02
_INTEGER_SIZES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_PTRMAP_ROOT, _PTRMAP_FREE, _PTRMAP_NODE = 1, 2, 5
MAGIC = b"SQLite format 3\0"


class Pages:
    """The newest version of each page of a database file and its WAL. Use it as a context manager.

    Args:
        path: the database file; it, and the WAL beside it, may be missing or damaged.
        page_size: what the pages were made with; the header may be the part that is damaged.
        wal: whether the WAL is looked at.
    """

    def __init__(self, path: str, page_size: int, *, wal: bool = True) -> None:
        self.size = page_size
        self.wal = Wal(path + "-wal" if wal else "", page_size)
        self._overlay, self.stale, self.nameless = self.wal.newest()
        self._fd = -1
        self.file_bytes = 0
        with contextlib.suppress(OSError):
            self._fd = rawfile.open_(path)
            self.file_bytes = os.fstat(self._fd).st_size
        self.unreadable = 0  # pages that the disk would not give up
        #: Pages that exist.
        self.count = max([self.file_bytes // page_size, *self._overlay])
        #: Pages that the database consists of, as far as it says so; 0 when it does not.
        self.stated = self._stated()
        self._ptrmaps: dict[int, bytes] = {}
        # A page belongs to one chain: following many more means that they were made to overlap, to take for ever.
        self._chains = 32 * (self.file_bytes // page_size + len(self._overlay))

    def close(self) -> None:
        """Let go of the files."""
        self.wal.close()
        if self._fd >= 0:
            rawfile.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- pages ---------------------------------------------------------------------------------------------------

    def page(self, number: int) -> bytes:
        """Return a page (from 1) as it stands after the last commit that counts; empty when there is none."""
        index = self._overlay.get(number)
        try:
            return self.stored(number) if index is None else self.wal.body(index)
        except OSError:
            self.unreadable += 1
            return b""

    def stored(self, number: int) -> bytes:
        """Return a page as it stands in the database file, without the WAL; raises OSError."""
        if self._fd < 0 or not 0 < number <= self.file_bytes // self.size:
            return b""
        return os.pread(self._fd, self.size, (number - 1) * self.size)

    def versions(self, number: int) -> Iterator[bytes]:
        """Yield all copies of a page that can be found, newest first."""
        index = self._overlay.get(number)
        with contextlib.suppress(OSError):
            if index is not None:
                yield self.wal.body(index)
                for older in self.wal.older(number, index):
                    yield self.wal.body(older)
            yield self.stored(number)

    def existing(self) -> Iterator[int]:
        """Yield the numbers of the pages that exist.

        Not all numbers up to the highest: a damaged frame may claim to be page two thousand million.
        """
        in_file = self.file_bytes // self.size
        yield from range(1, in_file + 1)
        yield from sorted(number for number in self._overlay if number > in_file)

    def logged(self) -> list[int]:
        """Return the numbers of the pages that stand in the WAL."""
        return sorted(self._overlay)

    def certain(self, number: int) -> bool:
        """Whether the newest copy of a page is in the file, or in a frame of the WAL whose checksum fits."""
        index = self._overlay.get(number)
        return index is None or self.wal.certain(index)

    def folded(self) -> bool:
        """Whether the database file already holds what the WAL does: nothing is lost with the WAL then."""
        return all(self.stored(number) == self.page(number) for number in self._overlay)

    def _stated(self) -> int:
        if self.wal.pages:
            return self.wal.pages
        first = self.page(1)
        return int.from_bytes(first[28:32], "big") if first.startswith(MAGIC) and first[24:28] == first[92:96] else 0

    # --- which pages are in use ----------------------------------------------------------------------------------

    def _freelist(self) -> tuple[set[int], bool]:
        """Return the page numbers on the freelist, and whether that is all of them."""
        first = self.page(1)
        found: set[int] = set()
        if not first.startswith(MAGIC):
            return found, False
        trunk, total = struct.unpack(">2I", first[32:40])
        while 0 < trunk <= self.count and trunk not in found:
            found.add(trunk)
            page = self.page(trunk)
            trunk, leaves = struct.unpack(">2I", page[:8]) if len(page) == self.size else (0, 1 << 31)
            if leaves > self.size // 4 - 2:
                return found, False
            found.update(struct.unpack(f">{leaves}I", page[8 : 8 + 4 * leaves]))
        return found, trunk == 0 and len(found) == total

    def _ptrmap_says_free(self, number: int) -> bool | None:
        """Return what the pointer map says of a page; None when it says nothing that makes sense."""
        entries = self.size // 5
        home = (number - 2) // (entries + 1) * (entries + 1) + 2
        if number < 3 or number == home:
            return None
        page = self._ptrmaps.get(home)
        if page is None:
            page = self._ptrmaps[home] = self.page(home)
        kind, parent = struct.unpack(">BI", page[5 * (number - home - 1) :][:5].ljust(5, b"\0"))
        if kind == _PTRMAP_NODE and 0 < parent <= self.count:
            return False
        if kind in (_PTRMAP_ROOT, _PTRMAP_FREE) and parent == 0:
            return bool(kind == _PTRMAP_FREE)
        return None

    def tree(self, root: int) -> tuple[set[int], bool]:
        """Return the leaf pages below a page, and whether the way to all of them was whole."""
        leaves: set[int] = set()
        seen: set[int] = set()
        whole = True
        todo = [root]
        while todo:
            number = todo.pop()
            page = self.page(number) if 0 < number <= self.count else b""
            if number in seen or len(page) < self.size:
                whole = False
                continue
            seen.add(number)
            start = 100 if number == 1 else 0
            kind = page[start]
            if kind in (_TABLE_LEAF, _INDEX_LEAF):
                leaves.add(number)
            elif kind in (_TABLE_NODE, _INDEX_NODE):
                todo += _children(page, start)
            else:
                whole = False
        return leaves, whole

    def leaves(self, root: int) -> tuple[list[int], list[int]]:
        """Return the pages that hold rows, of the table with this root page or of others, and those that may."""
        claimed, whole = self.tree(root)
        on_list, listed = self._freelist()
        sure: list[int] = []
        doubtful: list[int] = []
        for number in self.existing():
            if self.page(number)[:1] != b"\x0d":
                continue
            says = [self._ptrmap_says_free(number)]
            says.append(number in on_list if listed else None)
            says.append(True if self.stated and number > self.stated else None)
            says.append(False if number in claimed else True if whole else None)
            free, used = says.count(True), says.count(False)
            if number in self.stale or free == used:
                doubtful.append(number)
            elif used > free:
                sure.append(number)
        return sure, doubtful

    # --- rows ----------------------------------------------------------------------------------------------------

    def rows(self, numbers: Iterable[int]) -> Iterator[tuple[int, list[Any]]]:
        """Yield (row id, values) of every cell that can be read on these table leaves."""
        for number in numbers:
            yield from self.cells(self.page(number), 100 if number == 1 else 0)

    def cells(self, page: bytes, start: int = 0) -> Iterator[tuple[int, list[Any]]]:
        """Yield (row id, values) of every cell that can be read on a leaf; the row id is 0 on an index leaf."""
        if len(page) < self.size or page[start] not in (_TABLE_LEAF, _INDEX_LEAF):
            return
        table = page[start] == _TABLE_LEAF
        cells = int.from_bytes(page[start + 3 : start + 5], "big")
        if cells > (self.size - start - 8) // 2:
            return
        room = 16 * self.size  # that of a page, and some for cells that are broken and overlap
        for index in range(cells):
            at = int.from_bytes(page[start + 8 + 2 * index : start + 10 + 2 * index], "big")
            try:
                size, at = _varint(page, at)
                rowid = 0
                if table:
                    rowid, at = _varint(page, at)
                    if rowid >= 1 << 63:
                        rowid -= 1 << 64
                room -= min(size, self.size)
                if room < 0:
                    return
                yield rowid, _values(self._payload(page, at, size, table))
            except (ValueError, IndexError, struct.error):
                continue  # this cell is broken; its neighbours may not be

    def _payload(self, page: bytes, at: int, size: int, table: bool) -> bytes:
        usable = self.size
        largest = usable - 35 if table else (usable - 12) * 64 // 255 - 23
        if size <= largest:
            if at + size > usable:
                raise ValueError("cell beyond its page")
            return page[at : at + size]
        if size > self.file_bytes + len(self._overlay) * usable:
            raise ValueError("larger than the file")
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        if local > largest:
            local = least
        parts = [page[at : at + local]]
        following = int.from_bytes(page[at + local : at + local + 4], "big")
        left = size - local
        while left > 0:
            overflow = self.page(following)
            self._chains -= 1
            if len(overflow) < usable or not following or self._chains < 0:
                raise ValueError("broken chain of overflow pages")
            parts.append(overflow[4 : 4 + min(left, usable - 4)])
            left -= usable - 4
            following = int.from_bytes(overflow[:4], "big")
        return b"".join(parts)


def unreadable(path: str) -> bool:
    """Whether the disk will not give back some part of a file."""
    try:
        fd = rawfile.open_(path)
    except OSError:
        return False
    try:
        at = 0
        while block := os.pread(fd, 1 << 20, at):
            at += len(block)
    except OSError:
        return True
    finally:
        rawfile.close(fd)
    return False


def _children(page: bytes, start: int) -> list[int]:
    """Return the page numbers that an inner page of a tree names."""
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    found = [int.from_bytes(page[start + 8 : start + 12], "big")]
    for index in range(min(cells, (len(page) - start - 12) // 2)):
        at = int.from_bytes(page[start + 12 + 2 * index : start + 14 + 2 * index], "big")
        found.append(int.from_bytes(page[at : at + 4], "big"))
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | data[at + 8], at + 9


def _values(record: bytes) -> list[Any]:
    size, at = _varint(record, 0)
    types = []
    while at < size:
        kind, at = _varint(record, at)
        types.append(kind)
    if at != size:
        raise ValueError("header longer than it says")
    values: list[Any] = []
    for kind in types:
        if kind == 0:
            values.append(None)
        elif kind in _INTEGER_SIZES:
            width = _INTEGER_SIZES[kind]
            values.append(int.from_bytes(_take(record, at, width), "big", signed=True))
            at += width
        elif kind == 7:
            values.append(struct.unpack(">d", _take(record, at, 8))[0])
            at += 8
        elif kind in (8, 9):
            values.append(kind - 8)
        elif kind >= 12:
            width = (kind - 12) // 2
            raw = _take(record, at, width)
            values.append(raw if kind % 2 == 0 else raw.decode("utf-8"))
            at += width
        else:
            raise ValueError("reserved serial type")
    return values


def _take(record: bytes, at: int, width: int) -> bytes:
    raw = record[at : at + width]
    if len(raw) != width:
        raise ValueError("value beyond its record")
    return raw
