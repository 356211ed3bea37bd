"""Credentials go to the server and nowhere else. One of each kind is planted, and looked for everywhere afterwards."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from security_kit import QUICK, Ears, RawServer, command, files_below, leaks, reply, wait_until

from edgespool import AsyncClient, Client
from edgespool.config import Settings
from edgespool.errors import ConfigError, EdgespoolError
from edgespool.event import Batch, StoredEvent
from edgespool.formats import Service, create
from edgespool.http import HttpDestination
from edgespool.queue.view import QueueView
from edgespool.redaction import Redactor

USER, PASSWORD, TOKEN = "anna-hausmeister", 'pass/w"o<rd +1', "tok-Zq7Zq7Zq7-bearer"
IN_QUERY, IN_HEADER = "qry=5&secret/77", "hdr secret 88xx"
PROXY_USER, PROXY_PASSWORD = "proxy-bertha", "prx/pass%wd-99"
SECRETS = (USER, PASSWORD, TOKEN, IN_QUERY, IN_HEADER, PROXY_USER, PROXY_PASSWORD)


def encoded(text: str) -> str:
    return quote(text, safe="")


QUERY = f"?api_key={encoded(IN_QUERY)}&v=1"
WAYS: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "basic": lambda url: (url + QUERY, {"auth": (USER, PASSWORD), "headers": {"X-Api-Key": IN_HEADER}}),
    "userinfo": lambda url: (url.replace("//", f"//{encoded(USER)}:{encoded(PASSWORD)}@") + QUERY, {}),
    "bearer": lambda url: (url + QUERY, {"auth": TOKEN, "headers": {"X-Api-Key": IN_HEADER}}),
}


def echo(status: int, *headers: str) -> Callable[[bytes], bytes]:
    """Answer with all that came in the request's head, in the body and in headers."""

    def answer(head: bytes) -> bytes:
        lines = head.decode("latin-1").split("\r\n")
        # What tells most comes first: only the beginning of what a server says is kept.
        lines.sort(key=lambda line: not line.lower().startswith(("authorization", "proxy-authorization", "x-api-key")))
        said = " ; ".join(lines)
        more = [f"{name}: {said}" for name in headers]
        return reply(status, f"{said}, that is {USER}:{PASSWORD}, {IN_QUERY}, {TOKEN}".encode(), *more)

    return answer


def forged(head: bytes) -> bytes:
    """Answer with headers that no parser takes, the request repeated in them: urllib3 logs it with the address."""
    return b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n" + head.replace(b"\r\n", b" ") + b"\r\n: x\r\n\r\n"


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "delivered": lambda head: reply(204),
    "401": echo(401, "WWW-Authenticate", "X-Debug"),
    "400": echo(400),
    "413": echo(413),
    "415": echo(415),
    "503": echo(503, "Retry-After"),
    "302": echo(302, "Location"),
    "cookie": echo(401, "Set-Cookie"),
    "forged headers": forged,
    "no HTTP": lambda head: head.replace(b"\r\n", b" ") + b"\r\n\r\n",
    "cut off": lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + head[:50],
    "nothing": lambda head: b"",
}


class Everything:
    """All that a client says while it lives."""

    def __init__(self, ears: Ears) -> None:
        self.ears = ears
        self.texts: list[tuple[str, str]] = []

    def hook(self, error: Exception, batch: object) -> None:
        self.texts.append(("on_error", "".join(traceback.format_exception(error)) + repr(error) + str(error)))

    def look_at(self, client: Client) -> None:
        shown = [
            client,
            client.settings,
            client._destination,
            client._worker,
            client._queue,
            client.stats(),
            client._format,
        ]
        shown += [client._worker.state, client._destination._redactor]  # type: ignore[attr-defined]
        self.texts += [(f"repr of {type(each).__name__}", repr(each) + str(each)) for each in shown]

    def found(self, directory: Path) -> list[tuple[str, str]]:
        lines = [("a log", line) for line in self.ears.heard]
        return leaks([*self.texts, *files_below(directory), *lines], SECRETS)


@pytest.fixture
def everything() -> Iterator[Everything]:
    with Ears() as ears:
        yield Everything(ears)


def use(client: Client, everything: Everything, until: Callable[[], object]) -> None:
    """Record, let the sender work until something holds, and look at all that can be shown."""
    client._worker._policy = replace(client._worker._policy, backoff=QUICK)
    client.record("reading", n=1)
    client.start()
    wait_until(until)
    everything.look_at(client)
    # The WAL is looked at before it is folded into the file.
    everything.texts += list(files_below(Path(client.directory)))
    everything.texts.append(("the report of close", repr(client.close(0.5))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_the_server_answers_no_secret_is_kept_or_said(
    tmp_path: Path, everything: Everything, way: str, answer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with RawServer(ANSWERS[answer]) as server:
        url, settings = WAYS[way](server.url)
        client = Client(
            url, path=tmp_path / "queue", source="pi", flush_interval=0.0, start=False, timeout=2,
            on_error=everything.hook, on_delivery=lambda batch: everything.texts.append(("a batch", repr(batch))),
            **settings,
        )  # fmt: skip
        # "cut off" counts as delivered: the status has arrived.
        use(client, everything, lambda: client.stats().last_error or client.stats().pending == 0)
        sent = [("sent", request.decode("latin-1")) for request in server.got]
    assert leaks(sent, [IN_QUERY]), "nothing was planted"
    everything.texts += zip(("stdout", "stderr"), capfd.readouterr(), strict=True)
    assert everything.found(tmp_path) == []
    said = [line for line in everything.ears.heard if line.startswith("urllib3")]
    assert any("[redacted]" in line for line in said) or answer in ("no HTTP", "nothing"), "urllib3 does log addresses"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("trouble", ["closed port", "no such host", "no TLS", "no such bundle"])
def test_whatever_keeps_the_connection_from_being_made_no_secret_is_said(
    tmp_path: Path, everything: Everything, way: str, trouble: str
) -> None:
    with (
        RawServer(lambda head: b"no TLS at all\r\n\r\n") as server,
        closing(socket.create_server(("127.0.0.1", 0))) as spare,
    ):
        port = spare.getsockname()[1]
        spare.close()
        url, settings = WAYS[way](
            {
                "closed port": f"http://127.0.0.1:{port}/v1",
                "no such host": "http://host.invalid/v1",
                "no TLS": server.url.replace("http:", "https:"),
                "no such bundle": server.url.replace("http:", "https:"),
            }[trouble]
        )
        if trouble == "no such bundle":
            settings["verify"] = str(tmp_path / "no.pem")
        client = Client(
            url,
            path=tmp_path / "queue",
            start=False,
            flush_interval=0.0,
            on_error=everything.hook,
            timeout=2,
            **settings,
        )
        use(client, everything, lambda: client.stats().last_error)
    assert everything.found(tmp_path) == []


@pytest.mark.parametrize("answer", ["407", "unusable"])
def test_the_credentials_of_a_proxy_are_secret_as_well(
    tmp_path: Path, everything: Everything, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    with RawServer(echo(407, "Proxy-Authenticate")) as proxy:
        credentials = f"{encoded(PROXY_USER)}:{encoded(PROXY_PASSWORD)}"
        port = proxy.port if answer == "407" else "port"
        monkeypatch.setenv("HTTP_PROXY", f"http://{credentials}@127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://{credentials}@127.0.0.1:{port}")
        client = Client(
            f"http://ingest.invalid/v1{QUERY}", path=tmp_path / "queue", start=False, flush_interval=0.0, auth=TOKEN,
            on_error=everything.hook,
        )  # fmt: skip
        use(client, everything, lambda: client.stats().last_error)
        if answer == "407":
            assert b"Proxy-Authorization" in b"".join(proxy.got), "nothing was planted"
    assert everything.found(tmp_path) == []


BAD = {
    "scheme": f"ftp://{USER}:{TOKEN}@example.com/?k={TOKEN}",
    "no host": f"http://{USER}:{TOKEN}@/",
    "space": f"http://{USER}:{TOKEN}@exa mple/?key={TOKEN}",
    "port": f"http://{USER}:{TOKEN}@example.com:port/?key={TOKEN}",
    "large port": f"http://{USER}:{TOKEN}@example.com:99999/?key={TOKEN}",
    "bracket": f"http://{USER}:{TOKEN}@[::1/",
    "address in brackets": f"http://{USER}:x@[{TOKEN}]/",
    "normalized": f"http://{USER}:{TOKEN}@example\u2100.com/",
    "surrogate": f"http://{USER}:{TOKEN}@example.com/\udcff",
    "no text": [f"http://{USER}:{TOKEN}@example.com"],
}


@pytest.mark.parametrize("url", BAD.values(), ids=BAD.keys())
def test_an_address_that_cannot_be_used_is_refused_without_its_secrets(
    tmp_path: Path, everything: Everything, url: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Client(url, path=tmp_path / "queue")
    everything.texts.append(("the error", repr(caught.value) + "".join(traceback.format_exception(caught.value))))
    if isinstance(url, str) and url.isascii():
        monkeypatch.setenv("EDGESPOOL_URL", url)
        for arguments in (["doctor"], ["send", "x"], ["status"], ["replay"]):
            command(*arguments, "--path", str(tmp_path / "queue"))
    everything.texts += zip(("stdout", "stderr"), capfd.readouterr(), strict=True)
    assert everything.found(tmp_path) == []


SETTINGS: dict[str, dict[str, Any]] = {
    "header with a line break": {"headers": {"X-Key": f"{TOKEN}\r\nX-Other: 1"}},
    "header that is a line": {"headers": {f"Authorization: Bearer {TOKEN}": ""}},
    "header of bytes": {"headers": {"X-Key": TOKEN.encode()}},
    "headers that are a list": {"headers": [("X-Key", TOKEN)]},
    "headers without a sign": {"headers": f"X-Key {TOKEN}"},
    "header beyond Latin-1": {"headers": {"X-Key": f"{TOKEN}€"}},
    "token with a line break": {"auth": f"{TOKEN}\n"},
    "token with an escape": {"auth": f"\x1b{TOKEN}"},
    "three of them": {"auth": (USER, TOKEN, PASSWORD)},
    "a number among them": {"auth": (USER, 5)},
    "a mapping": {"auth": {USER: PASSWORD}},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_setting_that_cannot_be_used_is_refused_without_its_secrets(
    tmp_path: Path, everything: Everything, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Client("http://127.0.0.1:9/", path=tmp_path / "queue", **settings)
    everything.texts.append(("the error", repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)))
    assert everything.found(tmp_path) == []
    assert not (tmp_path / "queue").exists(), "nothing was made for it"


def test_a_password_beyond_latin_1_is_sent_in_utf_8(tmp_path: Path) -> None:
    with RawServer(reply(204)) as server:
        with Client(server.url, path=tmp_path / "queue", auth=("ännchen", "5 € pass")) as client:
            client.record("reading")
            assert client.flush(10)
        expected = base64.b64encode("ännchen:5 € pass".encode())
        assert b"Basic " + expected in server.got[0]


@pytest.mark.parametrize("way", WAYS)
def test_no_command_shows_a_secret(
    tmp_path: Path, everything: Everything, way: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    queue = tmp_path / "queue"
    with RawServer(ANSWERS["400"], ANSWERS["401"]) as server:
        url, settings = WAYS[way](server.url)
        monkeypatch.setenv("EDGESPOOL_URL", url)
        monkeypatch.setenv("EDGESPOOL_PATH", str(queue))
        if "auth" in settings:
            auth = settings["auth"]
            monkeypatch.setenv("EDGESPOOL_AUTH", auth if isinstance(auth, str) else ":".join(auth))
        if "headers" in settings:
            monkeypatch.setenv("EDGESPOOL_HEADERS", f"X-Api-Key={IN_HEADER}")
        command("send", "--wait=1", "refused", "n=1")
        command("send", "--wait=1", "held", "n=1")
        for name in ("status", "doctor", "peek", "export", "replay"):
            command(name)
            if name != "export":
                command(name, "--json")
        command("replay", "--dry-run")
        command("send", "--no-such-option")
    with suppress(EdgespoolError), QueueView(str(queue)) as view:
        everything.texts.append(("the view", repr(list(view.events())) + repr(view)))
    out, err = capfd.readouterr()
    assert "401" in out + err
    assert "400" in out + err
    everything.texts += [("stdout", out), ("stderr", err)]
    assert everything.found(queue) == []


def test_the_asynchronous_client_shows_as_little(tmp_path: Path, everything: Everything) -> None:
    async def use_it() -> None:
        url, settings = WAYS["basic"]("http://127.0.0.1:9/v1")
        async with AsyncClient(url, path=tmp_path / "queue", start=False, **settings) as client:
            await client.record("reading")
            everything.texts.append(("repr", repr(client) + str(client) + repr(await client.stats())))

    asyncio.run(use_it())
    assert everything.found(tmp_path) == []


def test_settings_from_a_file_show_as_little(tmp_path: Path, everything: Everything) -> None:
    file = tmp_path.parent / f"{tmp_path.name}.toml"
    file.write_text(
        f"url = 'http://{encoded(USER)}:{TOKEN}@127.0.0.1:9/'\nauth = '{USER}:{TOKEN}'\n[headers]\nX-Key = '{TOKEN}'\n"
    )
    try:
        from edgespool import config

        settings = config.load({"path": str(tmp_path / "queue")}, file)
        everything.texts.append(("settings", f"{settings!r} {settings} {settings:}"))
        assert leaks([("what is sent", f"{settings.auth} {settings.headers} {settings.url}")], [TOKEN])
        file.write_text(f"url = 'http://{USER}:{TOKEN}@127.0.0.1:9/'\nauth = '{TOKEN}\n")
        with pytest.raises(ConfigError) as caught:
            config.load({}, file)
        everything.texts.append(("the error", repr(caught.value)))
        file.write_text(f"auht = '{TOKEN}'\n")
        with pytest.raises(ConfigError, match="auth") as caught:
            config.load({}, file)
        everything.texts.append(("the error", repr(caught.value)))
    finally:
        file.unlink()
    assert everything.found(tmp_path) == []


def test_what_was_cut_out_of_one_clients_log_lines_leaves_others_alone(everything: Everything) -> None:
    destination = HttpDestination(f"http://127.0.0.1:9/{QUERY}", create("json", "pi"))
    log = logging.getLogger("urllib3.connectionpool")
    log.debug('%s "POST %s HTTP/1.1" %s', "http://127.0.0.1", f"/{QUERY}", 200)
    log.debug("nothing secret: %s %d", "a", 5)
    assert [line.split("DEBUG ")[1] for line in everything.ears.heard] == [
        'http://127.0.0.1 "POST /?api_key=[redacted]&v=1 HTTP/1.1" 200',
        "nothing secret: a 5",
    ]
    assert Settings().url is None
    destination.close()


def test_many_threads_redact_at_once(everything: Everything) -> None:
    log = logging.getLogger("urllib3.connectionpool")

    def work() -> None:
        for number in range(50):
            redactor = Redactor(f"http://h/?k={TOKEN}", {}, None)
            log.debug("address %s %s", TOKEN, number)
            del redactor

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leaks([("log", line) for line in everything.ears.heard], [TOKEN]) == []


@pytest.mark.parametrize("auth", [TOKEN, (USER, PASSWORD), (USER.encode(), PASSWORD.encode())])
def test_what_is_given_is_secret_before_anything_was_sent(auth: Any) -> None:
    redactor = Redactor(f"http://h/?key={IN_QUERY.replace('&', '%26')}", {"X-Key": IN_HEADER}, auth)
    said = redactor.clean(f"{IN_QUERY} {IN_HEADER} {TOKEN if auth == TOKEN else USER + ':' + PASSWORD}")
    assert leaks([("said", said)], SECRETS) == []


def test_the_parts_of_what_was_sent_are_secret_as_well() -> None:
    redactor = Redactor("http://h/", {}, None)
    redactor.learn_sent({"Cookie": "sid=cookie-secret-55; theme=dark-blue"})
    assert redactor.clean("no session cookie-secret-55, nor dark-blue") == "no session [redacted], nor [redacted]"
    for value in ("Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), b"Bearer " + TOKEN.encode()):
        redactor.learn_sent({"Authorization": value})
        said = redactor.clean(f"no {USER}, {PASSWORD}" if isinstance(value, str) else f"no {TOKEN}")
        assert leaks([("said", said)], SECRETS) == []
    assert redactor.clean("no cookie-secret-55") == "no cookie-secret-55", "what was sent before is forgotten"


SECRET_HEADERS = ["Authorization", "Cookie", "X-Api-Key", "X-Auth-Type", "X-Session-Version", "X-Signature-Timestamp",
                  "Token", "X-Passphrase", "X-Whatever", "X-Device-Id", "Forwarded"]  # fmt: skip
HARMLESS_HEADERS = ["Accept", "Content-Type", "User-Agent", "traceparent", "X-Request-Id", "X-Site", "X-Tenant",
                    "SDK-Version", "x_client_platform", "X-SDK-Client-Timestamp"]  # fmt: skip


@pytest.mark.parametrize("way", ["of the settings", "of the session"])
def test_what_a_header_says_is_secret_unless_its_name_says_that_it_is_not(way: str) -> None:
    for name in (*SECRET_HEADERS, *HARMLESS_HEADERS):
        headers = {name: "north-wing"}
        redactor = Redactor("http://h/", headers if way == "of the settings" else {}, None)
        if way == "of the session":
            redactor.learn_sent(headers)
        expected = "[redacted]" if name in SECRET_HEADERS else "north-wing"
        assert redactor.clean("no such place: north-wing!") == f"no such place: {expected}!", name


def test_what_follows_a_scheme_is_secret_and_the_words_of_a_sentence_are_not() -> None:
    for name, value, shown in (
        ("Authorization", "Token abcd", False),
        ("Proxy-Authorization", "Digest a b", False),
        ("X-Whatever", "Bearer abcd1234", False),
        ("X-Whatever", "please retry", True),
        ("X-Whatever", "a note for people", True),
    ):
        redactor = Redactor("http://h/", {name: value}, None)
        rest = value.partition(" ")[2]
        assert (rest in redactor.clean(f"refused: {rest}!")) is (shown or len(rest) < 4), (name, value)
        assert value not in redactor.clean(f"refused: {value}!")


def test_a_service_says_itself_what_is_secret_in_its_headers() -> None:
    service = create("initialstate", "pi")
    assert isinstance(service, Service)
    service.configure(Settings(auth="own-access-key"))
    payload = service.encode("temperature", {"value": 1}, "id", 1.5)
    said = b"the bucket north-wing is not for own-access-key, nor for mine-alone"
    with RawServer(reply(400, said)) as server:
        destination = HttpDestination(server.url, service, headers={"X-Own": "mine-alone"})
        outcome = destination.send(Batch("north-wing", [StoredEvent(1, payload, 1.5, b"i" * 16, False)]))
        destination.close()
    assert b"X-IS-BucketKey: north-wing" in server.got[0]
    assert "the bucket north-wing is not for [redacted], nor for [redacted]" in getattr(outcome, "reason", "")
