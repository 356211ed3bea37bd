"""Which states a crash at one moment may leave: of all that is pending, any part. Knows the model, no queue.

A state is named by a number. The numbers below `Frontier.planned` are the states of a plan: all there are when they
are few; else nothing, everything, each write alone, missing or torn, each name and each size. The numbers above are
drawn at random, the same ones for the same seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from hashlib import blake2b

from crash.model import Directory, Disk, File, NameOp, Piece, grow

__all__ = ["Choice", "Files", "Frontier", "digest"]

#: Files by path, relative to the root; a directory is None.
Files = dict[str, "bytes | None"]

_FEW = 256  # with no more states than these, all of them are planned
_FILLINGS = ("zeros", "ones", "noise", "half")


@dataclass(frozen=True)
class Choice:
    """One state. Names: how many changes of each name have arrived. Files: size and pieces that have arrived, in order.

    `damage` lists blocks that were being written when the power went: (file, block, filling).
    """

    names: tuple[int, ...]
    sizes: tuple[int, ...]
    pieces: tuple[tuple[int, ...], ...]
    damage: tuple[tuple[int, int, str], ...] = ()


@dataclass
class _Chain:
    """One name with pending changes, in order; `node` is what it durably stands for."""

    directory: int
    name: str
    node: int | None
    ops: list[NameOp]


@dataclass
class _Write:
    """One write: the pieces it consists of."""

    file: int  # place in `Frontier.files`
    number: int
    pieces: list[int] = field(default_factory=list)


class Frontier:
    """The pending changes at one moment, and the states they can lead to.

    Args:
        disk: the model at this moment.
        seed: text that the random states are drawn from.
        block: bytes of a block that a write in flight destroys as a whole; 0: none.
    """

    def __init__(self, disk: Disk, seed: str, block: int = 0) -> None:
        self._disk = disk
        self._seed = seed
        self._block = block
        self.files: list[File] = []
        self.chains: list[_Chain] = []
        for node in disk.nodes.values():
            if isinstance(node, File):
                if node.pending:
                    self.files.append(node)
            else:
                self._chains_of(node)
        self._place = {id(op): (i, k) for i, chain in enumerate(self.chains) for k, op in enumerate(chain.ops, 1)}
        self.writes: list[_Write] = []
        for place, file in enumerate(self.files):
            known: dict[int, _Write] = {}
            for index, piece in enumerate(file.pieces):
                write = known.get(piece.op)
                if write is None:
                    write = known[piece.op] = _Write(place, file.pending[piece.op].number)
                    self.writes.append(write)
                write.pieces.append(index)
        self.writes.sort(key=lambda write: write.number)
        self._all = self._everything()
        self.possible = self._count()  # an upper limit; several may come out the same
        self.planned = self._plan_size()

    def _chains_of(self, directory: Directory) -> None:
        chains: dict[str, _Chain] = {}
        for op in directory.pending:
            chain = chains.get(op.name)
            if chain is None:
                chain = chains[op.name] = _Chain(directory.number, op.name, directory.durable.get(op.name), [])
            chain.ops.append(op)
        self.chains += chains.values()

    def _everything(self) -> Choice:
        return Choice(
            tuple(len(chain.ops) for chain in self.chains),
            tuple(len(file.sizes) - 1 for file in self.files),
            tuple(tuple(range(len(file.pieces))) for file in self.files),
        )

    def _count(self) -> int:
        count = 1
        for chain in self.chains:
            count *= len(chain.ops) + 1
        for file in self.files:
            count *= len(set(file.sizes)) * 2 ** len(file.pieces)
        return count

    # --- the plan ---------------------------------------------------------------------------------------------------

    def _plan_size(self) -> int:
        if self._block:
            return 2
        if self.possible <= _FEW:
            return self.possible + 2
        names = sum(len(chain.ops) for chain in self.chains)
        sizes = sum(min(len(file.sizes), 8) for file in self.files)
        return 2 + 5 * len(self.writes) + 2 * names + 2 * sizes

    def choice(self, number: int) -> Choice:
        """Return the state with this number."""
        if number == 0:
            return Choice((0,) * len(self.chains), (0,) * len(self.files), tuple(() for _ in self.files))
        if number == 1:
            return self._all
        if number < self.planned:
            drawn = self._enumerated(number - 2) if self.possible <= _FEW else self._planned(number - 2)
        else:
            drawn = self._drawn(random.Random(f"{self._seed}/{number}"))
        return self._legal(drawn)

    def _enumerated(self, rest: int) -> Choice:
        names, sizes, pieces = [], [], []
        for chain in self.chains:
            rest, digit = divmod(rest, len(chain.ops) + 1)
            names.append(digit)
        for file in self.files:
            distinct = sorted({size: place for place, size in enumerate(file.sizes)}.values())
            rest, digit = divmod(rest, len(distinct))
            sizes.append(distinct[digit])
            rest, bits = divmod(rest, 2 ** len(file.pieces))
            pieces.append(tuple(i for i in range(len(file.pieces)) if bits >> i & 1))
        return Choice(tuple(names), tuple(sizes), tuple(pieces))

    def _planned(self, number: int) -> Choice:
        if number < 5 * len(self.writes):
            return self._of_writes(*divmod(number, 5))
        number -= 5 * len(self.writes)
        for place, chain in enumerate(self.chains):
            if number < 2 * len(chain.ops):
                arrived, alone = divmod(number, 2)
                base = self._all if alone else self.choice(0)
                names = (*base.names[:place], arrived + (not alone), *base.names[place + 1 :])
                return Choice(names, base.sizes, base.pieces)
            number -= 2 * len(chain.ops)
        for place, file in enumerate(self.files):
            some = min(len(file.sizes), 8)
            if number < 2 * some:
                step, holes = divmod(number, 2)
                size = step * (len(file.sizes) - 1) // max(some - 1, 1)
                sizes = (*self._all.sizes[:place], size, *self._all.sizes[place + 1 :])
                pieces = self._all.pieces if not holes else tuple(() for _ in self.files)
                return Choice(self._all.names, sizes, pieces)
            number -= 2 * some
        raise IndexError(number)

    def _of_writes(self, which: int, how: int) -> Choice:
        """Return the state in which one write is what matters: all up to it, it alone, without it, or it torn."""
        chosen: list[list[int]] = [[] for _ in self.files]
        for place, write in enumerate(self.writes):
            pieces = write.pieces
            if place == which:
                middle = len(pieces) // 2
                pieces = (pieces, pieces, [], pieces[:middle], pieces[middle:])[how]
            elif (how == 1) or (how in (0, 3) and place > which):
                pieces = []
            chosen[write.file] += pieces
        return Choice(self._all.names, self._all.sizes, tuple(map(tuple, chosen)))

    # --- at random ----------------------------------------------------------------------------------------------------

    def _drawn(self, rng: random.Random) -> Choice:
        names = self._all.names
        if rng.random() < 0.4:
            names = tuple(rng.randint(0, len(chain.ops)) for chain in self.chains)
        sizes = self._all.sizes
        if rng.random() < 0.3:
            sizes = tuple(rng.randrange(len(file.sizes)) for file in self.files)
        chosen: list[list[int]] = [[] for _ in self.files]
        share = rng.choice((0.03, 0.3, 0.5, 0.7, 0.97))
        manner = rng.random()
        torn = rng.randrange(len(self.writes)) if self.writes else -1
        for place, write in enumerate(self.writes):
            if manner < 0.3:  # whole writes
                pieces = write.pieces if rng.random() < share else []
            elif manner < 0.5:  # all in order up to one that is torn
                pieces = write.pieces if place < torn else []
                if place == torn:
                    pieces = [each for each in write.pieces if rng.random() < 0.5]
            else:
                pieces = [each for each in write.pieces if rng.random() < share]
            chosen[write.file] += pieces
        if rng.random() < 0.25:  # writes over each other may arrive the other way round
            for each in chosen:
                rng.shuffle(each)
        return Choice(names, sizes, tuple(map(tuple, chosen)), self._damage(rng) if self._block else ())

    def _damage(self, rng: random.Random) -> tuple[tuple[int, int, str], ...]:
        hit = sorted(
            {(place, piece.offset // self._block) for place, file in enumerate(self.files) for piece in file.pieces}
        )
        if not hit:
            return ()
        count = min(len(hit), rng.choice((1, 1, 1, 2, 4, len(hit))))
        return tuple((*each, rng.choice(_FILLINGS)) for each in rng.sample(hit, count))

    def _legal(self, choice: Choice) -> Choice:
        """Return the choice with what it presupposes: the new name of a rename comes before the old one goes."""
        names = list(choice.names)
        changed = True
        while changed:
            changed = False
            for chain, arrived in zip(self.chains, tuple(names), strict=True):
                for op in chain.ops[:arrived]:
                    if op.after is not None and id(op.after[1]) in self._place:
                        place, needed = self._place[id(op.after[1])]
                        if names[place] < needed:
                            names[place] = needed
                            changed = True
        return Choice(tuple(names), choice.sizes, choice.pieces, choice.damage)

    # --- the files ----------------------------------------------------------------------------------------------------

    def build(self, choice: Choice) -> Files:
        """Return the files of a state."""
        tables: dict[int, dict[str, int]] = {}
        for chain, arrived in zip(self.chains, choice.names, strict=True):
            table = tables.get(chain.directory)
            if table is None:
                table = tables[chain.directory] = dict(self._disk.directory(chain.directory).durable)
            node = chain.ops[arrived - 1].node if arrived else chain.node
            if node is None:
                table.pop(chain.name, None)
            else:
                table[chain.name] = node
        places = {file.number: place for place, file in enumerate(self.files)}
        found: Files = {}
        waiting = [("", 0)]
        while waiting:
            path, number = waiting.pop()
            node_there = self._disk.nodes[number]
            if isinstance(node_there, File):
                place = places.get(number)
                found[path] = bytes(node_there.durable) if place is None else self._content(place, choice)
                continue
            if path:
                found[path] = None
            names = tables.get(number, node_there.durable)
            waiting += [(f"{path}/{name}" if path else name, each) for name, each in sorted(names.items())]
        return found

    def _content(self, place: int, choice: Choice) -> bytes:
        file = self.files[place]
        size = choice.sizes[place]
        content = bytearray(file.durable)
        cuts = [i for i, op in enumerate(file.pending) if op.kind == "truncate" and i < size]
        pieces = [file.pieces[index] for index in choice.pieces[place]]
        if cuts:
            pieces.sort(key=lambda piece: piece.op)
        for piece in pieces:
            while cuts and cuts[0] < piece.op:
                del content[file.pending[cuts.pop(0)].size :]
            _lay(content, piece)
        for cut in cuts:
            del content[file.pending[cut].size :]
        grow(content, file.sizes[size])
        del content[file.sizes[size] :]
        for which, block, filling in choice.damage:
            if which == place:
                _destroy(content, block * self._block, (block + 1) * self._block, filling)
        return bytes(content)

    def describe(self, choice: Choice) -> list[str]:
        """Return what has arrived and what has not, in words."""
        lines = []
        for chain, arrived in zip(self.chains, choice.names, strict=True):
            if arrived < len(chain.ops):
                what = "made" if chain.ops[arrived].node is not None else "removed"
                lines.append(f"name {chain.name!r}: {arrived} of {len(chain.ops)} changes arrived; not yet {what}")
        for place, file in enumerate(self.files):
            arrived, there = len(set(choice.pieces[place])), len(file.pieces)
            size, last = file.sizes[choice.sizes[place]], file.sizes[-1]
            if arrived < there or size != last:
                lines.append(
                    f"{self._path(file.number)}: {arrived} of {there} sectors arrived since its last flush, "
                    f"size {size} of {last}"
                )
        for which, block, filling in choice.damage:
            lines.append(f"{self._path(self.files[which].number)}: block {block} destroyed ({filling})")
        return lines or ["everything that was written has arrived"]

    def _path(self, number: int) -> str:
        waiting = [("", self._disk.root)]
        while waiting:
            path, directory = waiting.pop()
            for name, node in {**directory.durable, **directory.live}.items():
                there = self._disk.nodes[node]
                if node == number:
                    return f"{path}{name}"
                if isinstance(there, Directory):
                    waiting.append((f"{path}{name}/", there))
        return f"(a file without a name, {number})"


def _lay(content: bytearray, piece: Piece) -> None:
    grow(content, piece.offset)
    content[piece.offset : piece.offset + len(piece.data)] = piece.data


def _destroy(content: bytearray, start: int, stop: int, filling: str) -> None:
    stop = min(stop, len(content))
    if start >= stop:
        return
    if filling == "half":
        start = (start + stop) // 2
    if filling == "noise":
        made = random.Random(start).randbytes(stop - start)
    else:
        made = (b"\xff" if filling == "ones" else b"\0") * (stop - start)
    content[start:stop] = made


def digest(files: Files, ignore: tuple[str, ...]) -> bytes:
    """Return a short mark of a state's files; the contents of some are of no interest."""
    made = blake2b(digest_size=16)
    for path in sorted(files):
        content = files[path]
        made.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        if content is not None and not path.endswith(ignore):
            made.update(content)
    return made.digest()
