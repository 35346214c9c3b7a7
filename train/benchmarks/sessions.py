"""Start the app, and use it as browsers do: over HTTP and the websocket of Streamlit."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
ANSWER_SECONDS = 600
"""Longest wait for a page; ten sessions share the cores."""


class AppError(RuntimeError):
    """The app does not start or does not answer."""


@dataclass(frozen=True)
class Server:
    """The running app."""

    address: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """What it printed."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    @property
    def memory(self) -> int:
        """Resident bytes of its process now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)


@contextlib.contextmanager
def running_app(
    log: Path,
    *options: str,
    address: str = "127.0.0.1",
    uvicorn: bool = False,
    cwd: Path = ROOT,
    **environment: str,
) -> Iterator[Server]:
    """Start the app on a free loopback port, with more options and environment variables.

    `cwd` is its working folder, in which it looks for evaluations and Streamlit's configuration.
    With `uvicorn` it is started without Streamlit's own command, whose options do not count then.

    Raises:
        AppError: it does not start; the message has its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "app.py")]
    command += ["--server.headless=true", f"--server.address={address}"]
    command += [f"--server.port={port}", *options]
    if uvicorn:
        command = [sys.executable, "-m", "uvicorn", "app:app", f"--host={address}"]
        command += [f"--port={port}"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    variables = {**os.environ, "PYTHONPATH": paths, **environment}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, env=variables
        )
    everywhere = ip_address(address).is_unspecified
    reached = f"http://{'127.0.0.1' if everywhere else address}:{port}"
    server = Server(reached, process, log)
    try:
        _wait_until_healthy(server)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server, with SIGKILL if it does not stop in time."""
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_healthy(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.address}/_stcore/health", timeout=2) as answer:  # nosec B310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AppError(f"the app did not start:\n{server.log}")


class BrowserSession:
    """One tab of a browser, without the browser: pages are run, and their messages read.

    `headers` are sent with the request that opens it, besides those of a browser.

    Raises:
        AppError: the server closes the connection or does not answer in time.
    """

    def __init__(self, address: str, **headers: str) -> None:
        # here: these come with the extra "app"
        from websockets.sync.client import connect
        from websockets.typing import Origin, Subprotocol

        self._address = address
        place = urlsplit(address)
        self._xsrf = self._cookie()
        self._opened = contextlib.ExitStack()
        self._socket = self._opened.enter_context(
            connect(
                f"ws://{place.netloc}/_stcore/stream",
                origin=Origin(address),
                subprotocols=[Subprotocol("streamlit"), Subprotocol(self._xsrf or "x")],
                additional_headers={"Cookie": f"_streamlit_xsrf={self._xsrf}", **headers},
                max_size=None,
            )
        )
        self._session = ""

    def close(self) -> None:
        """End the session, as a closed tab does."""
        self._opened.close()

    def _cookie(self) -> str:
        with urllib.request.urlopen(f"{self._address}/_stcore/health", timeout=60) as answer:  # nosec B310
            for cookie in answer.headers.get_all("Set-Cookie") or []:
                name, _, value = cookie.partition(";")[0].partition("=")
                if name == "_streamlit_xsrf":
                    return str(value)
        return ""

    def run_page(self, page: str = "", widgets: Sequence[Any] = ()) -> "PageContent":
        """Run a page ("" is the first) with states of widgets, and return what it draws."""
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        message.rerun_script.page_name = page
        message.rerun_script.widget_states.widgets.extend(widgets)
        self._socket.send(message.SerializeToString())
        return self._read_page()

    def upload(self, uploader: str, photos: Sequence[tuple[str, bytes]]) -> Any:
        """Upload files for an upload field; return the state of that widget."""
        from streamlit.proto.BackMsg_pb2 import BackMsg
        from streamlit.proto.WidgetStates_pb2 import WidgetState

        request = BackMsg()
        request.file_urls_request.request_id = uuid.uuid4().hex
        request.file_urls_request.file_names.extend(name for name, _ in photos)
        request.file_urls_request.session_id = self._session
        self._socket.send(request.SerializeToString())
        while True:
            message = self._receive()
            if message.HasField("file_urls_response"):
                break
        state = WidgetState(id=uploader)
        places = message.file_urls_response.file_urls
        for (name, content), place in zip(photos, places, strict=True):
            self._put(place.upload_url, name, content)
            info = state.file_uploader_state_value.uploaded_file_info.add()
            info.file_id, info.name, info.size = place.file_id, name, len(content)
            info.file_urls.CopyFrom(place)
        return state

    def _put(self, path: str, name: str, content: bytes) -> None:
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        connection = http.client.HTTPConnection(urlsplit(self._address).netloc, timeout=60)
        with contextlib.closing(connection):
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "X-Xsrftoken": self._xsrf,
                "Cookie": f"_streamlit_xsrf={self._xsrf}",
                "Origin": self._address,
            }
            connection.request("PUT", path, body, headers)
            status = connection.getresponse().status
        if status not in (200, 204):
            raise AppError(f"an upload was answered with status {status}")

    def _read_page(self) -> "PageContent":
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        page = PageContent([])
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            message = self._receive()
            kind = message.WhichOneof("type")
            if kind == "new_session":
                page.elements.clear()  # the page began again
                self._session = message.new_session.initialize.session_id
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                page.elements.append(message.delta.new_element)
            elif kind == "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                    return page
                if message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR:
                    raise AppError("a page has a syntax error")
        raise AppError(f"no page within {ANSWER_SECONDS} s")

    def _receive(self) -> Any:
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        try:
            data = self._socket.recv(timeout=ANSWER_SECONDS)
        except Exception as error:  # of websockets: closed in any way, or too late
            raise AppError(f"the connection ended: {error or type(error).__name__}") from error
        return ForwardMsg.FromString(data)


@dataclass(frozen=True)
class PageContent:
    """The elements that a run of a page drew."""

    elements: list[Any]

    @property
    def exceptions(self) -> list[str]:
        """Tracebacks that are shown."""
        found = (item.exception for item in self.elements if item.HasField("exception"))
        return [f"{item.type}: {item.message}" for item in found]

    @property
    def uploader(self) -> str:
        """Id of the upload field.

        Raises:
            AppError: the page has none.
        """
        for item in self.elements:
            if item.HasField("file_uploader"):
                return str(item.file_uploader.id)
        raise AppError("the page has no upload field")

    @property
    def labels(self) -> list[str]:
        """Labels of all widgets that have one."""
        drawn = (getattr(item, item.WhichOneof("type")) for item in self.elements)
        return [item.label for item in drawn if "label" in item.DESCRIPTOR.fields_by_name]

    def typed(self, label: str, text: str) -> Any:
        """Type into the text field of a label; return the state of that widget.

        Raises:
            AppError: the page has no such field, or several.
        """
        from streamlit.proto.WidgetStates_pb2 import WidgetState

        fields = [item.text_input for item in self.elements if item.HasField("text_input")]
        found = [item.id for item in fields if item.label == label]
        if len(found) != 1:
            raise AppError(f"the page has {len(found)} text fields with the label {label!r}")
        return WidgetState(id=found[0], string_value=text)

    def shows(self, text: str) -> bool:
        """Return whether an element contains a text, which Markdown may have escaped."""
        wanted = text.encode()
        return any(wanted in item.SerializeToString().replace(b"\\", b"") for item in self.elements)


class PeakMemory(threading.Thread):
    """Watches the resident memory of a server and its children while it is used."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._process = psutil.Process(server.process.pid)
        self._end = threading.Event()

    def run(self) -> None:
        """Look ten times a second."""
        while not self._end.wait(0.1):
            total = 0
            with contextlib.suppress(psutil.Error):
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_info().rss
            self.bytes = max(self.bytes, total)

    def stop(self) -> int:
        """Stop watching and return the peak in bytes."""
        self._end.set()
        self.join()
        return self.bytes
