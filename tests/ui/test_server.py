"""Tests of the hosts and origins that the running app answers to, and of its policy headers."""

import asyncio
import base64
import contextlib
import http.client
import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from streamlit import config

from geoclip_core.training.runs import Run
from train.benchmarks.sessions import ROOT, BrowserSession, running_app
from ui import server
from ui.maps import ONLINE_TILES
from ui.page import DATASETS_VARIABLE, PUBLIC_VARIABLE, RUNS_VARIABLE

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


def finish(coroutine):
    """Run a coroutine in a thread: Chromium's fixture leaves a running loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


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
    images = set(policy["img-src"].split()) - set(policy["default-src"].split())
    assert images == {"/".join(address.split("/")[:3]) for _, address, _ in ONLINE_TILES}
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


# Who may type folders --------------------------------------------------------------------------

REFUSED = "outside the folders that this app may open"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of runs and datasets, and a run elsewhere."""
    place = tmp_path_factory.mktemp("folders")
    Run.create(place / "elsewhere", "secret-run", {"data": "x"}, "fit")
    Run.create(place / "runs", "listed", {"data": "x"}, "fit")
    return place


@pytest.fixture(scope="module")
def places(folders):
    return {RUNS_VARIABLE: str(folders / "runs"), DATASETS_VARIABLE: str(folders / "datasets")}


@contextlib.contextmanager
def visitor(app, **headers):
    with contextlib.closing(BrowserSession(app.address, **headers)) as session:
        yield session


def runs_in(folder, session):
    """The Train page before and after the folder of runs is typed."""
    before = session.run_page("Train")
    return before, session.run_page("Train", [before.typed("Runs folder", str(folder))])


def test_only_this_computer_may_type_any_folder_whatever_serves_the_app(folders, places, tmp_path):
    log = tmp_path / "log.txt"
    with running_app(log, address="0.0.0.0", uvicorn=True, **places) as app:
        with visitor(app) as session:
            before, shown = runs_in(folders / "elsewhere", session)
            assert before.shows("listed")
            assert shown.shows("secret-run")
            assert not shown.shows(REFUSED)
        # a proxy on this computer
        with visitor(app, **{"X-Forwarded-For": "192.168.7.7"}) as session:
            before, shown = runs_in(folders / "elsewhere", session)
            assert before.shows("listed")
            assert not shown.shows("secret-run")
            assert shown.shows(REFUSED)


def test_nobody_can_claim_to_be_this_computer(folders, places, tmp_path):
    with running_app(tmp_path / "log.txt", address="0.0.0.0", **places) as app:
        for headers in ({}, {"X-Geoclip-Beyond-Loopback": ""}):
            with visitor(app, **headers) as session:
                _, shown = runs_in(folders / "elsewhere", session)
                assert not shown.shows("secret-run")
                assert shown.shows(REFUSED)


@pytest.mark.parametrize(
    ("host", "header", "beyond"),
    [
        (b"localhost:8501", b"accept", False),
        (b"127.0.0.2", b"accept", False),
        (b"[::1]:8501", b"accept", False),
        (b"photos.example", b"accept", True),
        (b"localhost", b"forwarded", True),
        (b"localhost", b"x-forwarded-for", True),
        (b"localhost", b"x-real-ip", True),
    ],
)
def test_visitors_of_a_proxy_are_not_on_this_computer(host, header, beyond):
    ends = {"server": ("127.0.0.1", 8501), "client": ("127.0.0.1", 5000)}
    scope = {"type": "http", "headers": [(b"host", host), (header, b"x")], **ends}
    assert server._stayed_here(scope) is not beyond


@pytest.mark.parametrize(
    ("here", "there", "beyond"),
    [
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", False),
        ("192.168.7.7", "127.0.0.1", True),
        ("127.0.0.1", "192.168.7.8", True),
        ("192.168.7.7", "192.168.7.8", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("/run/app.sock", None, True),
        (None, None, True),
    ],
)
def test_the_connection_of_a_request_says_whether_it_stayed_on_this_computer(
    monkeypatch, here, there, beyond
):
    monkeypatch.setattr(server.Guard, "serves", False)
    allowed = config.get_option("server.allowedHosts")
    passed = []

    async def inner(scope, receive, send):
        passed.append(scope)

    guard = server.Guard(inner)
    config.set_option("server.allowedHosts", allowed)
    lie = (b"x-geoclip-beyond-loopback", b"")
    scope = {
        "type": "websocket",
        "headers": [(b"host", b"localhost"), lie],
        "server": None if here is None else (here, 8501),
        "client": None if there is None else (there, 5000),
    }
    finish(guard(scope, None, None))
    assert (lie in passed[0]["headers"]) is False
    assert ((lie[0], b"1") in passed[0]["headers"]) is beyond


def test_a_request_to_the_numeric_address_of_the_server_is_answered(monkeypatch):
    """Such as of uvicorn, which does not tell Streamlit its address."""
    monkeypatch.setattr(server.Guard, "serves", False)
    monkeypatch.setattr(server, "_address", lambda: "localhost")
    allowed = config.get_option("server.allowedHosts")
    answers = []

    async def inner(scope, receive, send):
        answers.append(200)

    async def send(message):
        answers.append(message.get("status"))

    guard = server.Guard(inner)
    config.set_option("server.allowedHosts", allowed)
    for host in (b"192.168.7.7:80", b"192.168.7.8:80", b"evil.example"):
        scope = {
            "type": "http",
            "headers": [(b"host", host)],
            "server": ("192.168.7.7", 80),
            "client": ("192.168.7.9", 5000),
        }
        finish(guard(scope, None, send))
    assert [status for status in answers if status] == [200, 403, 403]


def test_a_public_app_takes_no_paths_and_changes_nothing(places, tmp_path):
    with running_app(tmp_path / "log.txt", **places, **{PUBLIC_VARIABLE: "1"}) as app:
        for name in ("", "Context_heads", "Evaluation", "Train", "Dataset"):
            with visitor(app) as session:
                page = session.run_page(name)
                assert page.shows("Public")
                words = ("Runs folder", "Start", "Stop", "Resume", "Delete", "Import", "Fetch")
                words += ("Draw", "CSV", "Check")
                offered = [one for one in page.labels if one.startswith(words)]
                assert [one for one in offered if one != "Check a claim"] in ([], ["CSV"])
                boxes = [item.selectbox for item in page.elements]
                boxes += [item.multiselect for item in page.elements]
                assert not any(box.accept_new_options for box in boxes)


# A fault of the program ------------------------------------------------------------------------


def test_a_fault_is_one_sentence_on_the_page_and_a_traceback_in_the_log(places, tmp_path):
    """A file of the program that cannot be read stands for any fault that nobody foresaw."""
    broken = tmp_path / "site" / "sitecustomize.py"
    broken.parent.mkdir()
    broken.write_text(
        "import geoclip_core.training.runs as runs\n"
        "def fail(*_):\n    raise KeyError('secret detail')\n"
        "runs.find_runs = fail\n"
    )
    log = tmp_path / "log.txt"
    paths = os.pathsep.join([str(broken.parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with running_app(log, **places, PYTHONPATH=paths) as app, visitor(app) as session:
        page = session.run_page("Train")
        assert page.shows("failed because of a fault in the program")
        assert not page.shows("Traceback")
        assert not page.exceptions
        assert not page.shows("secret detail")
        assert "secret detail" in app.log
        assert "Traceback" in app.log
        assert session.run_page("").shows("Example photo")
