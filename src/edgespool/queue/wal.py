"""Reads a write-ahead log in pure Python: which frames count, and whether damage has cut it short. Writes nothing.

Source: the SQLite file format, section 4 (https://www.sqlite.org/fileformat2.html#walformat). Each frame's checksum
continues that of the frame before, and SQLite ends its reading at the first that does not fit: so a crash's torn tail
goes away, but damage in the middle takes everything behind it along, without a word.

The two can be told apart at durability "power". There, because of `psow=0`, a flushed commit repeats its last frame, up
to the next sector; an acknowledgement, which is not flushed, does not. So behind a broken frame:

* Two such marks in one unbroken run of frames mean that the first was flushed before the second was begun, and with it
  all that stands before it, the broken frame too: it was whole once. That is damage.
* Anything less may be the tail of a crash, or what a transaction left that was rolled back. It does not count.

The store flushes a WAL that it finds at opening, so that this holds after any number of crashes.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator

from ..files import open_plain

__all__ = ["Wal"]

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = 0x377F0682  # its last bit says which way round the checksum's words are
_CHUNK = 512  # frames read and checked at a time
_ROUNDS = 1 << 10  # so many rounds of a WAL may have left frames in it
_unpack_frame = struct.Struct(">6I").unpack_from

GOOD, MAYBE, BAD, ALIEN = range(4)
"""What is known of a frame: its checksum fits; it cannot be checked, because the one before is broken; it does not fit;
it bears the marks of another round, or of none."""


class Wal:
    """The frames of a WAL's present round.

    Args:
        path: the WAL; one that is missing or cannot be read has no frames.
        page_size: what the pages were made with.
    """

    def __init__(self, path: str, page_size: int) -> None:
        self.page_size = page_size
        self._step = _FRAME_HEADER + page_size
        self.sound_header = False
        self._numbers: list[int] = []  # page number of each frame
        self._commits: list[int] = []  # pages of the whole database, in a frame that ends a transaction, else 0
        self._states: list[int] = []
        self._fd = -1
        try:
            self._fd = open_plain(path)
            self._read()
        except OSError:
            pass
        #: Frames that count for SQLite: an unbroken chain, up to its last commit.
        self.committed = self._unbroken()
        #: Frames that must have been flushed; more than `committed` when damage has cut the chain.
        self.proven = max(self.committed, self._proven())

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def damaged(self) -> bool:
        """Whether flushed frames stand behind a broken one."""
        return self.proven > self.committed

    @property
    def pages(self) -> int:
        """The size of the database in pages after the last commit that counts; 0 when there is none."""
        return next((commit for commit in reversed(self._commits[: self.proven]) if commit), 0)

    def newest(self) -> tuple[dict[int, int], set[int], int]:
        """Return where the newest copy of each page stands, and what may have been newer.

        The pages of which a newer copy is broken come second; third is the number of broken frames that do not even
        say which page they held.
        """
        newest: dict[int, int] = {}
        stale: set[int] = set()
        nameless = 0
        for index in range(self.proven):
            number, state = self._numbers[index], self._states[index]
            if state == ALIEN or not 0 < number < 1 << 31:
                nameless += 1
            elif state == BAD:
                stale.add(number)
            else:
                newest[number] = index
                stale.discard(number)
        return newest, stale, nameless

    def certain(self, index: int) -> bool:
        """Whether a frame's checksum fits. Of one behind a broken frame nobody knows: it may be half written over."""
        return self._states[index] == GOOD

    def older(self, number: int, index: int) -> Iterator[int]:
        """Yield the frames with copies of a page older than the one at `index`, newest first."""
        for each in range(min(index, self.proven) - 1, -1, -1):
            if self._numbers[each] == number and self._states[each] in (GOOD, MAYBE):
                yield each

    def body(self, index: int) -> bytes:
        """Return the page in a frame; raises OSError."""
        return os.pread(self._fd, self.page_size, _HEADER + index * self._step + _FRAME_HEADER)

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        total = (os.fstat(self._fd).st_size - _HEADER) // self._step
        if total < 1:
            return
        header = self._pread(_HEADER, 0)
        magic, _, page_size, _, salt1, salt2, check1, check2 = struct.unpack(">8I", header)
        big = magic == _MAGIC | 1
        self.sound_header = (
            magic | 1 == _MAGIC | 1
            and page_size == self.page_size
            and _checksum(header[:24], big) == (check1, check2)
        )
        salts = (salt1, salt2) if self.sound_header else self._front_salts(total)
        before = (check1, check2)
        state = GOOD if self.sound_header else BAD  # of what came before the frame
        for start in range(0, total, _CHUNK):
            count = min(_CHUNK, total - start)
            data = self._pread(count * self._step, _HEADER + start * self._step)
            heads = [_unpack_frame(data, index * self._step) for index in range(count)]
            if all((head[2], head[3]) != salts for head in heads):
                break  # left over from an earlier round
            ends = [(head[4], head[5]) for head in heads]
            found = _checksums(data, self._step, [before, *ends[:-1]], big)
            for (number, commit, s1, s2, c1, c2), sums in zip(heads, found, strict=True):
                if (s1, s2) != salts:
                    state = ALIEN
                elif sums == (c1, c2):
                    state = GOOD
                else:
                    state = BAD if state == GOOD else MAYBE
                self._numbers.append(number)
                self._commits.append(commit if state != ALIEN else 0)
                self._states.append(state)
            before = ends[-1]

    def _pread(self, size: int, at: int) -> bytes:
        """Read; what the disk will not give up reads as zeros, and nothing else with it."""
        try:
            data = os.pread(self._fd, size, at)
            return data + bytes(size - len(data))
        except OSError:
            if size <= 512:
                return bytes(size)
            half = size // 2 + 511 & ~511
            return self._pread(half, at) + self._pread(size - half, at + half)

    def _front_salts(self, total: int) -> tuple[int, int]:
        """Return the marks of the present round: behind a broken header the rest may be whole.

        What is left of earlier rounds stands behind it, and may well be more. Marks that only one frame bears may be
        damage, unless they count on from others: each round adds one to the first of the two.
        """
        seen: Counter[tuple[int, int]] = Counter()
        for index in range(min(total, 4 * _CHUNK)):
            head = self._pread(_FRAME_HEADER, _HEADER + index * self._step)
            seen[struct.unpack(">2I", head[8:16])] += 1
        common = seen.most_common(1)[0][0]
        for salts, frames in seen.items():  # in the order of their first frames
            if any(salts) and (frames > 1 or 0 < salts[0] - common[0] & 0xFFFFFFFF <= _ROUNDS):
                return salts
        return common

    # --- what counts ---------------------------------------------------------------------------------------------

    def _unbroken(self) -> int:
        if not self.sound_header:
            return 0
        last = 0
        for index, state in enumerate(self._states):
            if state != GOOD or not 0 < self._numbers[index] < 1 << 31:
                break
            if self._commits[index]:
                last = index + 1
        return last

    def _proven(self) -> int:
        """Return the end of the last run of frames behind a break that holds two marks of a flush; 0: there is none."""
        last = marks = end = 0
        for index, state in enumerate(self._states):
            if state != GOOD:
                marks = 0
                continue
            if self._commits[index]:
                end = index + 1
                if index >= self.committed and self._repeats(index):
                    marks += 1
            if marks >= 2 and end > last:
                last = end
        return last if last > self.committed else 0

    def _repeats(self, index: int) -> bool:
        """Whether a frame repeats the one before, as only a flushed commit's last frame does."""
        if not index or self._states[index - 1] not in (GOOD, MAYBE):
            return False
        if (self._numbers[index], self._commits[index]) != (self._numbers[index - 1], self._commits[index - 1]):
            return False
        try:
            return self.body(index) == self.body(index - 1)
        except OSError:
            return False


def _checksum(data: bytes, big: bool, s0: int = 0, s1: int = 0) -> tuple[int, int]:
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for index in range(0, len(words) - 1, 2):
        s0 = (s0 + words[index] + s1) & 0xFFFFFFFF
        s1 = (s1 + words[index + 1] + s0) & 0xFFFFFFFF
    return s0, s1


def _checksums(data: bytes, step: int, starts: list[tuple[int, int]], big: bool) -> list[tuple[int, int]]:
    """Return the checksum of each frame in `data`, continued from its start.

    All frames at once, each in 64 bits of a long integer: a few operations on such integers do what would take a loop
    over every word of every frame, in a tenth of the time.
    """
    order: str = "big" if big else "little"
    if big:
        starts = starts[::-1]  # read that way, the first frame stands in the highest bits
    count = len(starts)
    low = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * count, "little")
    s0 = int.from_bytes(struct.pack(f"<{count}Q", *(start[0] for start in starts)), "little")
    s1 = int.from_bytes(struct.pack(f"<{count}Q", *(start[1] for start in starts)), "little")
    columns = memoryview(data).cast("Q")
    width = step // 8
    for column in (0, *range(_FRAME_HEADER // 8, width)):  # page number and size, then the page; not salts and sums
        words = int.from_bytes(columns[column::width].tobytes(), order)  # type: ignore[arg-type]
        first, second = (words >> 32 & low, words & low) if big else (words & low, words >> 32 & low)
        s0 = s0 + first + s1 & low
        s1 = s1 + second + s0 & low
    found = list(
        zip(
            struct.unpack(f"<{count}Q", s0.to_bytes(8 * count, "little")),
            struct.unpack(f"<{count}Q", s1.to_bytes(8 * count, "little")),
            strict=True,
        )
    )
    return found[::-1] if big else found
