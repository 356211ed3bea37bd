"""Each page of a queue's file damaged in turn: the start succeeds, and only what lay on that page is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from damage_kit import Sample, Verdict, damaged
from faults_kit import PAGE, OpenQueue

from edgespool.queue.pages import Pages

Spoil = Callable[[bytearray, int, random.Random], None]


def scramble(content: bytearray, at: int, rng: random.Random) -> None:
    content[at : at + PAGE] = rng.randbytes(PAGE)


def zero(content: bytearray, at: int, rng: random.Random) -> None:
    content[at : at + PAGE] = bytes(PAGE)


def flip_a_few(content: bytearray, at: int, rng: random.Random) -> None:
    for _ in range(6):
        content[at + rng.randrange(PAGE)] ^= rng.randrange(1, 256)


def scramble_a_sector(content: bytearray, at: int, rng: random.Random) -> None:
    start = at + 512 * rng.randrange(PAGE // 512)
    content[start : start + 512] = rng.randbytes(512)


def scramble_the_head(content: bytearray, at: int, rng: random.Random) -> None:
    content[at : at + 16] = rng.randbytes(16)


def cut(content: bytearray, at: int, rng: random.Random) -> None:
    del content[at:]


def hurt(sample: Sample, page: int, *, and_later: bool = False) -> set[str]:
    """Return the events that have something on a page (or a later one) of which the WAL holds no newer copy."""
    return {
        name
        for name, pages in sample.pages.items()
        if any((each >= page if and_later else each == page) and each not in sample.newest for each in pages)
    }


@pytest.mark.parametrize("spoil", [scramble, zero, flip_a_few, scramble_a_sector, scramble_the_head, cut])
def test_with_any_one_page_damaged_all_rows_elsewhere_come_back(
    sample: Sample, open_queue: OpenQueue, quick_path: Path, spoil: Spoil
) -> None:
    rng = random.Random(spoil.__name__)
    whole = sample.files["queue.db"]
    verdicts: list[Verdict] = []
    for page in range(1, len(whole) // PAGE + 1):
        content = bytearray(whole)
        spoil(content, (page - 1) * PAGE, rng)
        verdict = damaged(sample, quick_path, open_queue, f"page{page}", db=content)
        assert verdict.lost <= hurt(sample, page, and_later=spoil is cut), f"page {page}"
        assert not verdict.back, f"page {page}: deleted events came back"
        verdicts.append(verdict)
    assert sum(bool(verdict.lost) for verdict in verdicts) > len(verdicts) // 4
    assert any(verdict.reports for verdict in verdicts)


def test_pages_that_were_freed_are_told_from_live_ones_whichever_source_is_damaged(
    closed: Sample, quick_path: Path
) -> None:
    """The freelist, the pointer map and the tree must not be fooled by one of them lying: two against one."""
    rng = random.Random(5)
    path = closed.copy(quick_path / "whole") / "queue.db"
    with Pages(str(path), PAGE) as pages:
        sure, doubtful = pages.leaves(root(pages))
        live = pages.tree(root(pages))[0]
        trunk = int.from_bytes(pages.page(1)[32:36], "big")
    assert doubtful == []
    assert live <= set(sure)
    stale = [
        number
        for number in range(2, len(closed.files["queue.db"]) // PAGE + 1)
        if closed.files["queue.db"][(number - 1) * PAGE] == 0x0D and number not in sure
    ]
    assert len(stale) > 5, "the sample has no freed pages that look like live ones"
    for page in (1, 2, trunk):
        for spoil in (scramble, zero):
            content = bytearray(closed.files["queue.db"])
            spoil(content, (page - 1) * PAGE, rng)
            path.write_bytes(content)
            with Pages(str(path), PAGE) as pages:
                sure, doubtful = pages.leaves(root(pages))
                assert live <= set(sure), (page, spoil.__name__)
                assert not {*sure, *doubtful} & set(stale), (page, spoil.__name__)


def test_acknowledged_rows_that_come_back_are_counted_though_as_many_others_are_lost(
    closed: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    """With the header, the pointer map and the top of the tree gone, nothing tells freed pages from live ones."""
    path = closed.copy(quick_path / "whole") / "queue.db"
    with Pages(str(path), PAGE) as pages:
        top = root(pages)
    lost = sorted({min(numbers) for numbers in closed.pages.values()})[::3]
    content = bytearray(closed.files["queue.db"])
    for page in (1, 2, top, *lost):
        zero(content, (page - 1) * PAGE, random.Random())
    verdict = damaged(closed, quick_path, open_queue, "damaged", db=content)
    assert verdict.back
    assert verdict.lost
    assert verdict.again > len(verdict.back) - len(verdict.lost)


def root(pages: Pages) -> int:
    """Return the root page of the table of events."""
    from edgespool.queue.salvage import _roots

    return _roots(pages)["ack_queue_default"]


def test_large_and_many_damages_neither_stop_the_start_nor_forge_an_event(
    sample: Sample, open_queue: OpenQueue, quick_path: Path
) -> None:
    for seed in range(40):
        rng = random.Random(seed)
        files = {name.replace("queue.db-", "").replace("queue.db", "db"): bytearray(content)
                 for name, content in sample.files.items() if not name.endswith("-shm")}  # fmt: skip
        for _ in range(rng.randrange(1, 12)):
            content = files[rng.choice(list(files))]
            at = rng.randrange(len(content))
            size = rng.choice([1, 4, 512, PAGE, 5 * PAGE])
            end = min(at + size, len(content))
            content[at:end] = rng.choice([bytes, rng.randbytes])(end - at)
        damaged(sample, quick_path, open_queue, f"seed{seed}", **files)
