"""Certificates are verified: a server that cannot prove who it is gets nothing, and the events wait."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from http_kit import OK, ScriptedServer, failed_files, wait_until

from edgespool import Client

MakeClient = Callable[..., Client]

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program to make certificates with")


class Certificate:
    """A self-signed certificate for 127.0.0.1, and its key."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path, self.key = str(directory / f"{name}.pem"), str(directory / f"{name}.key")
        command = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 "
            f"-subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
        ).split()
        subprocess.run([*command, "-keyout", self.key, "-out", self.path], check=True, capture_output=True, timeout=30)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self.key)
        return context


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def certificate(directory: Path) -> Certificate:
    return Certificate(directory, "server")


def test_a_certificate_that_nobody_vouches_for_keeps_the_events_queued(
    make_client: MakeClient, certificate: Certificate
) -> None:
    with ScriptedServer(lambda got: OK, certificate.context()) as server:
        client = make_client(server.url)
        client.record("reading")
        wait_until(lambda: client._worker._down_attempt >= 2, "two attempts")
        wait_until(lambda: client.stats().state == "backing off", "the wait")
        stats = client.stats()
        assert (stats.pending, stats.failed) == (1, 0)
        assert "TLS" in (stats.last_error or "")
        assert "certificate" in (stats.last_error or "")
        assert server.got == []
        assert failed_files(client) == []


def test_with_the_right_bundle_the_waiting_events_are_delivered(
    make_client: MakeClient, certificate: Certificate
) -> None:
    with ScriptedServer(lambda got: OK, certificate.context()) as server:
        distrustful = make_client(server.url)
        event = distrustful.record("reading")
        wait_until(lambda: distrustful.stats().last_error, "a failure")
        distrustful.close(0.5)
        client = make_client(server.url, verify=certificate.path)
        assert client.flush(20)
        assert [id for got in server.got for id in got.ids] == [event]
        assert len({got.peer for got in server.got}) == 1


def test_a_session_brings_its_own_bundle(make_client: MakeClient, certificate: Certificate) -> None:
    with ScriptedServer(lambda got: OK, certificate.context()) as server, requests.Session() as session:
        session.verify = certificate.path
        client = make_client(server.url, session=session)
        client.record("reading")
        assert client.flush(20)


def test_the_environment_names_a_bundle(
    make_client: MakeClient, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate.path)
    with ScriptedServer(lambda got: OK, certificate.context()) as server:
        client = make_client(server.url)
        client.record("reading")
        assert client.flush(20)


def test_a_client_certificate_is_shown(make_client: MakeClient, certificate: Certificate, directory: Path) -> None:
    device = Certificate(directory, "device")
    context = certificate.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(device.path)
    with ScriptedServer(lambda got: OK, context) as server:
        client = make_client(server.url, verify=certificate.path, cert=(device.path, device.key))
        client.record("reading")
        assert client.flush(20)


def test_a_bundle_that_is_not_there_keeps_the_events_queued(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client("https://127.0.0.1:9/", verify=str(tmp_path / "gone.pem"))
    client.record("reading")
    wait_until(lambda: client.stats().last_error, "a failure")
    stats = client.stats()
    assert (stats.pending, stats.failed) == (1, 0)
    assert "gone.pem" in (stats.last_error or "")
