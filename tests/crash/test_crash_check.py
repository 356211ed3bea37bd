"""The check itself: it must see what is broken, each kind of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from crash.check import PLACE, SETTINGS, SOURCE, Checker, Verdict
from crash.expect import Expectation
from crash.marks import NAME, data
from crash.states import Files

from edgespool import Client, Event

_PATH = f"{PLACE}/queue.db"


class Made:
    """A queue with six events, the last three of them a batch; what is expected of it; its files."""

    def __init__(self, directory: Path) -> None:
        queue = directory / "made" / PLACE
        self.expectation = Expectation()
        with Client(
            "http://127.0.0.1:9/", path=queue, start=False, source=SOURCE, config_file=os.devnull, **SETTINGS
        ) as client:
            for number in (1, 2, 3):
                self._intent(number, [10])
                route = "north" if number == 3 else ""
                self._receipt(number, [client.record_event(Event(NAME, data(number, 10), route=route))])
            self._intent(4, [10] * 3)
            self._receipt(4, client.record_many([(NAME, data(number, 10)) for number in (4, 5, 6)]))
        self.files: Files = {"var": None, "var/lib": None, PLACE: None}
        for path in queue.iterdir():
            self.files[f"{PLACE}/{path.name}"] = path.read_bytes()
        self.checker = Checker(str(directory / "state"))

    def _intent(self, number: int, sizes: list[int]) -> None:
        route = "north" if number == 3 else ""
        self.expectation.announced(f'["intent",{number},{number},{sizes},"{route}","main"]')

    def _receipt(self, number: int, ids: list[str]) -> None:
        self.expectation.announced(f'["receipt",{number},{str(ids).replace(chr(39), chr(34))}]')

    def changed(self, *statements: str) -> None:
        """Change the database behind the queue's back."""
        self.checker.lay_out(self.files)
        where = os.path.join(self.checker._root, _PATH)
        connection = sqlite3.connect(where)
        for each in statements:
            connection.execute(each)
        connection.commit()
        connection.close()
        self.files[_PATH] = Path(where).read_bytes()

    def check(self) -> Verdict:
        """Check the files as they are now, thoroughly."""
        return self.checker.check(self.files, self.expectation, thorough=True)

    def kinds(self) -> list[str]:
        """Return the kinds of problems found."""
        return [each.kind for each in self.check().problems]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A queue as it should be."""
    return Made(tmp_path)


def test_a_queue_as_it_should_be_passes(made: Made) -> None:
    verdict = made.check()
    assert not verdict.problems
    assert set(verdict.rows) == {1, 2, 3, 4, 5, 6}


def _forget(made: Made) -> None:
    made.files.pop(_PATH)


def _delete(made: Made) -> None:
    made.changed("DELETE FROM ack_queue_default WHERE _id = 2")


def _delete_counted(made: Made) -> None:
    _delete(made)
    made.changed("INSERT INTO edgespool_ledger VALUES ('delivered', 1)")


def _half_a_batch(made: Made) -> None:
    made.expectation.required -= {4, 5, 6}
    made.changed("DELETE FROM ack_queue_default WHERE _id = 6")


def _another_route(made: Made) -> None:
    made.changed("UPDATE edgespool_route SET name = 'south'")


def _not_announced(made: Made) -> None:
    del made.expectation.intents[2]


def _another_id(made: Made) -> None:
    made.expectation.receipts[2] = "another"


def _another_row(made: Made) -> None:
    made.expectation.rows[2] = 77


def _rows_used_again(made: Made) -> None:
    made.expectation.announced('["intent",9,9,[10],"","main"]')
    made.expectation.announced('["receipt",9,["an id"]]')
    made.expectation.yes.add(9)
    made.expectation.rows[9] = 1000
    made.changed("UPDATE edgespool_ledger SET value = 7", "INSERT INTO edgespool_ledger VALUES ('delivered', 1)")


def _never_so_many(made: Made) -> None:
    made.changed("UPDATE edgespool_ledger SET value = 900 WHERE name = 'seq'")


def _dropped(made: Made) -> None:
    made.changed("DELETE FROM ack_queue_default WHERE _id = 2", "INSERT INTO edgespool_ledger VALUES ('dropped:x', 1)")
    made.expectation.yes.add(2)


def _text(made: Made) -> None:
    made.files[_PATH] = b"a text" * 1000


def _torn_failed_file(made: Made) -> None:
    made.files[f"{PLACE}/failed"] = None
    made.files[f"{PLACE}/failed/20260101T000000.000000Z-1.json"] = b'{"schema": 1, "events": [{"da'


def _leftover(made: Made) -> None:
    made.files[f"{PLACE}/core"] = b""


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (_forget, "lost"),
        (_delete, "lost"),
        (_delete_counted, "lost"),
        (_half_a_batch, "batch"),
        (_another_route, "route"),
        (_not_announced, "phantom"),
        (_another_id, "altered"),
        (_another_row, "row id"),
        (_rows_used_again, "row id"),
        (_never_so_many, "ledger"),
        (_dropped, "ledger"),
        (_text, "lost"),
        (_torn_failed_file, "failed file"),
        (_leftover, "leftover"),
    ],
)
def test_what_is_broken_is_seen(made: Made, spoil: Callable[[Made], None], kind: str) -> None:
    spoil(made)
    assert made.kinds() == [kind]


def test_a_salvage_is_seen(made: Made) -> None:
    made.expectation.required.clear()
    made.expectation.groups.clear()
    _text(made)
    assert made.kinds() == ["salvaged"]


def test_an_event_the_server_has_may_be_there_or_not(made: Made) -> None:
    made.expectation.yes.add(2)
    assert not made.check().problems
    _delete_counted(made)
    assert not made.check().problems


def test_an_event_in_a_failed_file_is_not_missed(made: Made) -> None:
    _delete(made)
    made.changed("INSERT INTO edgespool_ledger VALUES ('failed', 1)")
    assert made.kinds() == ["lost"]
    identity = made.expectation.receipts[2]
    event = f'{{"id": "{identity}", "type": "{NAME}", "data": {str(data(2, 10)).replace(chr(39), chr(34))}}}'
    document = f'{{"schema": 1, "ids": ["{identity}"], "events": [{event}]}}'
    made.files[f"{PLACE}/failed"] = None
    made.files[f"{PLACE}/failed/20260101T000000.000000Z-1.json"] = document.encode()
    made.files[f"{PLACE}/failed/20260101T000000.000000Z-2.json.77.tmp"] = b"half-way"
    assert not made.check().problems


def test_what_is_in_doubt_may_be_there_or_not(made: Made) -> None:
    for number in (4, 5, 6):
        del made.expectation.receipts[number]
        made.expectation.required.discard(number)
    assert not made.check().problems
    made.changed("DELETE FROM ack_queue_default WHERE _id IN (4, 5, 6)")
    assert not made.check().problems
