"""Tests of the hosts and origins that the running app answers to, and of its policy headers."""

import base64
import contextlib
import http.client
import os
from urllib.parse import urlsplit

import pytest

from tests.browser.conftest import running_app

PATHS = ("/", "/Train", "/_stcore/health", "/_stcore/host-config", "/app/static/icon.svg")
UPLOAD = "/_stcore/upload_file/session/file"
STREAM = "/_stcore/stream"
PROXY = "https://proxy.example"
NAMES = (
    *("--server.allowedHosts", "photos.example", "--server.allowedHosts", "*.maps.example"),
    *("--server.corsAllowedOrigins", PROXY),
)
STRANGE = (
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost@evil.example",
    "evil.example@localhost",
    "evil.example#localhost",
    "localhost:port",
    "loc\u00e4lhost",
    "maps.example",
    "0",
    "",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with running_app(tmp_path_factory.mktemp("hosts") / "log.txt", *NAMES) as running:
        yield running


def answer(app, method, path, **headers):
    """Status and headers of an answer; a header of a list is sent once for each value."""
    place = urlsplit(app.address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_host=True)
        for name, values in headers.items():
            for value in values if isinstance(values, list) else [values]:
                connection.putheader(name.replace("_", "-"), value.encode())
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers


def websocket(app, **headers):
    """Status of a websocket handshake: 101 if it is accepted."""
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    return answer(app, "GET", STREAM, **handshake, Sec_WebSocket_Key=key, **headers)[0]


def port(app):
    return urlsplit(app.address).port


@pytest.mark.parametrize("host", STRANGE)
def test_no_request_for_another_host_is_answered(app, host):
    for path in PATHS:
        status, headers = answer(app, "GET", path, Host=host)
        assert status in (400, 403), path
        assert "Set-Cookie" not in headers
    for method in ("PUT", "DELETE", "POST", "OPTIONS"):
        assert answer(app, method, UPLOAD, Host=host)[0] in (400, 403)
    for origin in (f"http://{host}", app.address):
        assert websocket(app, Host=host, Origin=origin) in (400, 403)
    assert websocket(app, Host=host) in (400, 403)


def test_a_request_with_two_hosts_or_none_is_refused(app):
    assert answer(app, "GET", "/", Host=["localhost", "evil.example"])[0] in (400, 403)
    assert answer(app, "GET", "/")[0] in (400, 403)


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "photos.example", "a.maps.example"]
)
def test_loopback_and_configured_names_work(app, name):
    for host in (name, f"{name}:{port(app)}"):
        for path in PATHS:
            assert answer(app, "GET", path, Host=host)[0] == 200, path
        assert websocket(app, Host=host, Origin=f"http://{host}") == 101


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost.evil.example",
        "http://photos.example:1",
        "http://localhost:1",  # another program of this computer
        "http://localhost@evil.example",
        "file://",
        "null",
        "",
    ],
)
def test_no_request_of_another_origin_is_answered(app, origin):
    host = f"localhost:{port(app)}"
    for path in PATHS:
        assert answer(app, "GET", path, Host=host, Origin=origin)[0] == 403
    assert answer(app, "PUT", UPLOAD, Host=host, Origin=origin)[0] == 403
    assert websocket(app, Host=host, Origin=origin) == 403


def test_a_proxy_may_pass_on_requests_of_a_configured_origin(app):
    host, origin = f"localhost:{port(app)}", PROXY
    assert answer(app, "GET", "/", Host=host, Origin=origin)[0] == 200
    assert websocket(app, Host=host, Origin=origin) == 101


def test_pages_may_load_only_what_the_app_sends(app):
    _, headers = answer(app, "GET", "/", Host=f"localhost:{port(app)}")
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    loaded = f"{policy['default-src']} {policy['connect-src']}".split()
    assert [source for source in loaded if ":" in source and not source.endswith(":")] == [
        f"ws://localhost:{port(app)}",
        f"wss://localhost:{port(app)}",
    ]
    assert policy["object-src"] == "'none'"
    assert "*" not in loaded


@pytest.mark.parametrize(
    ("address", "answered", "refused"),
    [
        ("0.0.0.0", ["192.168.7.7", "[2001:db8::1]", "localhost"], ["evil.example", "10.1"]),
        ("127.0.0.2", ["127.0.0.2", "localhost"], ["127.0.0.3", "192.168.7.7"]),
    ],
)
def test_the_address_of_the_computer_works(tmp_path, address, answered, refused):
    with running_app(tmp_path / "log.txt", address=address) as app:
        for host in answered:
            assert answer(app, "GET", "/", Host=host)[0] == 200
            assert websocket(app, Host=host, Origin=f"http://{host}") == 101
        for host in refused:
            assert answer(app, "GET", "/", Host=host)[0] == 403
            assert websocket(app, Host=host, Origin=f"http://{host}") == 403
