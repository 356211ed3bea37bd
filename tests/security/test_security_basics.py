"""What holds without any setting: certificates are verified, nothing is unpickled, test servers listen on loopback."""

from __future__ import annotations

import ast
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from security_kit import RawServer, reply, wait_until

import edgespool
from edgespool import Client
from edgespool.config import Settings
from edgespool.errors import ConfigError
from edgespool.testing import Collector, FaultProxy

SOURCES = sorted(Path(edgespool.__file__).parent.rglob("*.py"))


# TLS


# Not as an error: raised before anything is sent, it would hide that nothing was verified.
@pytest.mark.filterwarnings("default:Unverified HTTPS request")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program to make a certificate with")
def test_a_server_that_cannot_prove_who_it_is_gets_not_a_byte_of_an_event(tmp_path: Path) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        f"-subj /CN=server -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        with Client(url, path=tmp_path / "queue", flush_interval=0.0, auth="a-token") as client:
            client.record("reading", n=1)
            connection, _ = listener.accept()
            connection.settimeout(5)
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                received.append(secure.recv(65536))
            wait_until(lambda: client.stats().last_error)
            assert "certificate verify failed" in (client.stats().last_error or "")
            assert client.stats().pending == 1
    assert b"".join(received) == b""


def test_verification_is_on_unless_it_is_switched_off_in_so_many_words() -> None:
    from edgespool import config

    assert Settings().verify is True
    assert config.load({"verify": None}).verify is True
    for given, expected in (("false", False), ("0", False), ("no", False), ("true", True), ("/ca.pem", "/ca.pem")):
        assert config.load({"verify": given}).verify == expected
    for nonsense in ("", 0, None, []):
        try:
            assert config.load({"verify": nonsense}).verify is True
        except ConfigError:
            continue


def test_a_redirect_is_never_followed(tmp_path: Path) -> None:
    with RawServer(reply(204)) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            with (
                RawServer(reply(status, b"", f"Location: {elsewhere.url}")) as server,
                Client(server.url, path=tmp_path / str(status), flush_interval=0.0, auth="a-token") as client,
            ):
                client.record("reading")
                wait_until(lambda client=client: client.stats().last_error)
        assert elsewhere.got == [], "neither events nor credentials went there"


# No code from data


def test_nothing_here_can_turn_data_into_code() -> None:
    """pickle, marshal, eval, exec, shelve, yaml, a shell: none of them is used anywhere."""
    forbidden = {"pickle", "cPickle", "marshal", "shelve", "yaml", "dill", "jsonpickle", "xml"}
    calls = {"eval", "exec", "compile", "__import__"}
    found = []
    for path in SOURCES:
        # `edgespool run`: the script that the user names is there to be run.
        allowed = {"exec", "compile"} if path.parts[-2:] == ("cli", "run.py") else set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            imported: set[str] = set()
            if isinstance(node, ast.Import):
                imported = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = {(node.module or "").split(".")[0]}
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls - allowed:
                found.append((path.name, node.func.id))
            elif isinstance(node, ast.keyword) and node.arg == "shell":
                found.append((path.name, "shell="))
            found += [(path.name, name) for name in imported & forbidden]
    assert found == []
    assert len(SOURCES) > 30


def test_persist_queues_serializer_is_not_pickle(tmp_path: Path) -> None:
    from edgespool.queue import DiskQueue

    queue = DiskQueue(tmp_path / "queue")
    try:
        assert queue._serializer.__name__ == "persistqueue.serializers.json"
        with pytest.raises(TypeError):
            queue.put(object())
    finally:
        queue.close()


# Servers for tests


def listening(server: Any) -> bool:
    """Whether somebody from outside could reach a server: on an address of this machine other than loopback."""
    try:
        with socket.create_connection((_own_address(), server.port), timeout=1):
            return True
    except OSError:
        return False


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            address: str = probe.getsockname()[0]
        except OSError:
            pytest.skip("this machine has no address but loopback")
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_the_collector_and_the_proxy_cannot_be_reached_from_outside() -> None:
    with Collector() as collector, FaultProxy(collector.url) as proxy:
        for server in (collector, proxy):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5):
                pass
            assert not listening(server)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.0.2.1", "example.com", "127.0.0.1.example.com", "127.0.0.256"]
)
def test_the_collector_will_not_listen_anywhere_else(host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        Collector(host=host)


def test_the_command_offers_no_other_address() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgespool", "collector", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "--host" not in done.stdout
    assert "--bind" not in done.stdout
