"""Credentials go to the server and nowhere else, not even when the server repeats them in its replies."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from http_kit import Got, ScriptedServer, wait_until

from edgespool import Client
from edgespool.errors import ConfigError

MakeClient = Callable[..., Client]

USER, PASSWORD = "anna-of-the-fleet", 'pass/w"<ord+1'
IN_QUERY, IN_HEADER, TOKEN, COOKIE = "query-secret-77", "header secret 88", "bearer-token-99", "cookie-secret-55"
SECRETS = (USER, PASSWORD, IN_QUERY, IN_HEADER, TOKEN, COOKIE)


def spellings(secret: str) -> set[str]:
    """Return the ways in which a secret may be written."""
    pair = f"{USER}:{PASSWORD}".encode()
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        html.escape(secret),
        base64.b64encode(secret.encode()).decode().rstrip("=")[:-2],
        base64.b64encode(pair).decode().rstrip("="),
        base64.b64encode(f"{USER}:{PASSWORD}".encode("latin-1")).decode().rstrip("="),
    }


def leaks(text: str) -> list[str]:
    """Return what of the secrets stands in a text: whole, in any spelling, or their first eight characters."""
    return [part for secret in SECRETS for part in [*spellings(secret), secret[:8]] if part in text]


class Everywhere:
    """All that a client says or leaves behind while it lives."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        self.said: list[str] = []

    def hook(self, error: Exception, batch: object) -> None:
        self.said += [str(error), repr(error)]

    def look(self, client: Client) -> None:
        """Fail if a secret stands anywhere."""
        wait_until(Path(client.directory, "sender.json").exists, "what the sender says of itself")
        texts = {"hooks": "\n".join(self.said)}
        texts["logs"] = "\n".join(
            record.getMessage() + str(record.exc_info) for record in self.caplog.records if record.name == "edgespool"
        )
        texts["repr"] = repr(client) + repr(client.settings) + repr(client._destination) + str(client.settings)
        texts["stats"] = repr(client.stats())
        for path in Path(client.directory).rglob("*"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):  # a file that was only for a moment
                texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
        assert {where: leaks(text) for where, text in texts.items() if leaks(text)} == {}


@pytest.fixture
def everywhere(caplog: pytest.LogCaptureFixture) -> Everywhere:
    caplog.set_level(logging.DEBUG, "edgespool")
    return Everywhere(caplog)


def parrot(status: int, spelled: Callable[[str], str]) -> Callable[[Got], tuple[int, dict[str, str], bytes]]:
    """Answer with all that came in the request's head, in some spelling."""

    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        head = f"{got.path} {json.dumps(got.headers, ensure_ascii=False)} {json.dumps(got.headers)}"
        kind, _, credentials = got.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            credentials = base64.b64decode(credentials).decode()
        said = spelled(f"you sent {credentials} and {got.headers.get('x-key')} and {head}")
        return status, {"Location": f"/login?back={got.path}"} if 300 <= status < 400 else {}, said.encode()

    return answer


def basic(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    return f"{server.url}?key={IN_QUERY}", {"auth": (USER, PASSWORD), "headers": {"X-Key": IN_HEADER}}


def userinfo(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    user, password = quote(USER, safe=""), quote(PASSWORD, safe="")
    url = server.url.replace("http://", f"http://{user}:{password}@")
    return f"{url}?key={IN_QUERY}", {"headers": {"X-Key": IN_HEADER}}


def bearer(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    return f"{server.url}?key={IN_QUERY}", {"auth": TOKEN, "headers": {"X-Key": IN_HEADER}}


def an_object(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    return f"{server.url}?key={IN_QUERY}", {"auth": requests.auth.HTTPBasicAuth(USER, PASSWORD)}


def a_session(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    session = requests.Session()
    session.auth = (USER, PASSWORD)
    session.headers["X-Key"] = IN_HEADER
    session.cookies.set("sid", COOKIE)
    return f"{server.url}?key={IN_QUERY}", {"session": session}


def a_header(server: ScriptedServer) -> tuple[str, dict[str, Any]]:
    return server.url, {"headers": {"Authorization": f"Token {TOKEN}", "X-Key": IN_HEADER}}


WAYS = [basic, userinfo, bearer, an_object, a_session, a_header]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("status", [400, 401, 503, 302])
def test_no_secret_that_the_server_repeats_is_kept_or_said(
    make_client: MakeClient, everywhere: Everywhere, way: Callable[..., Any], status: int
) -> None:
    with ScriptedServer(parrot(status, str)) as server:
        url, settings = way(server)
        client = make_client(url, on_error=everywhere.hook, **settings)
        client.record("reading", n=1)
        wait_until(lambda: everywhere.said, "an error")
        if status == 400:
            wait_until(lambda: client.stats().failed == 1, "the failed payload file")
        everywhere.look(client)
        client.close(0.2)
        sent = str([(got.path, got.headers) for got in server.got]) + PASSWORD
        assert leaks(sent), "nothing was planted"


@pytest.mark.parametrize("spelled", [quote, html.escape, str], ids=["percent", "html", "plain"])
def test_other_spellings_are_no_way_out(
    make_client: MakeClient, everywhere: Everywhere, spelled: Callable[[str], str]
) -> None:
    with ScriptedServer(parrot(400, spelled)) as server:
        url, settings = basic(server)
        client = make_client(url, on_error=everywhere.hook, **settings)
        client.record("reading", n=1)
        wait_until(lambda: client.stats().failed == 1, "the failed payload file")
        everywhere.look(client)


@pytest.mark.parametrize("before", range(270, 300, 3))
def test_an_excerpt_that_ends_within_a_secret_shows_no_half_of_it(
    make_client: MakeClient, everywhere: Everywhere, before: int
) -> None:
    def answer(got: Got) -> tuple[int, dict[str, str], bytes]:
        return 400, {}, b"." * before + TOKEN.encode() + b"." * 300

    with ScriptedServer(answer) as server:
        client = make_client(server.url, auth=TOKEN, on_error=everywhere.hook)
        client.record("reading", n=1)
        wait_until(lambda: client.stats().failed == 1, "the failed payload file")
        everywhere.look(client)


def test_a_connection_that_fails_says_no_secret(make_client: MakeClient, everywhere: Everywhere) -> None:
    url = f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:9/v1?key={IN_QUERY}"
    client = make_client(url, on_error=everywhere.hook, headers={"X-Key": IN_HEADER})
    client.record("reading", n=1)
    wait_until(lambda: everywhere.said, "an error")
    everywhere.look(client)


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://{USER}:{TOKEN}@example.com/",
        f"http://{USER}:{TOKEN}@/",
        f"http://{USER}:{TOKEN}@exa mple/?key={IN_QUERY}",
        f"http://{USER}:{TOKEN}@example.com:port/?key={IN_QUERY}",
        f"http://{USER}:{TOKEN}",
        f"//{USER}:{TOKEN}@example.com",
        f"http://{USER}:{TOKEN}@[::1/",
        f"http://{USER}:{TOKEN}@example\u2100.com/",
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated_with_its_secrets(make_client: MakeClient, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client(url)
    assert leaks(str(caught.value)) == []


@pytest.mark.parametrize("setting", [{"headers": {"X-Key": TOKEN + "\n"}}, {"auth": [TOKEN]}, {"headers": [TOKEN]}])
def test_a_setting_that_cannot_be_used_is_not_repeated_with_its_secrets(
    make_client: MakeClient, setting: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_client("http://example.com", **setting)
    assert leaks(str(caught.value)) == []
