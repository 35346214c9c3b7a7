"""Which requests the server answers, and what its pages may fetch.

A page of a stranger can make its own host name point to this computer (DNS rebinding) and then read
photos and start trainings as if it were the app. Streamlit's ``server.allowedHosts`` stops that for
the websocket only, so a middleware checks every request, and gives Streamlit the same list.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this computer that no other computer can answer to."""

_OWN = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Streamlit, Plotly and Vega write inline styles, evaluate expressions and draw from blobs."""


def bound_beyond_loopback() -> bool:
    """Return whether other computers may reach the app: its address is not a loopback one."""
    address = _address()
    if not address:
        return Guard.serves  # without an address, a server listens on all of them
    if address == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True  # a name of this computer


def guards() -> list[Middleware]:
    """Return the middleware of the app."""
    return [Middleware(Guard)]


class Guard:
    """Refuse requests for other hosts or from other origins; add a Content-Security-Policy.

    Allowed hosts are loopback names, the address that the server is bound to, and the names in
    ``server.allowedHosts`` and ``browser.serverAddress``. A server that is bound to all addresses
    of the computer also answers to any numeric address, which cannot be rebound. An origin is the
    host of the request or, behind a proxy, one of ``server.corsAllowedOrigins``.
    """

    serves = False
    """Whether this process has a server; tests of pages have none."""

    def __init__(self, app: ASGIApp) -> None:
        Guard.serves = True
        self.app = app
        self.any_number = _is_unspecified(_address())
        configured = list(config.get_option("server.allowedHosts"))
        if config.is_manually_set("browser.serverAddress"):
            configured.append(config.get_option("browser.serverAddress"))
        self.origins = tuple(config.get_option("server.corsAllowedOrigins"))
        own = () if self.any_number else (_address(),)
        self.hosts = (*LOOPBACK, *own, *configured)
        # Streamlit checks the websocket again. It has no pattern for numeric addresses.
        allowed = ["*"] if self.any_number else list(self.hosts)
        config.set_option("server.allowedHosts", allowed, "ui/server.py")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with status 403, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_host(hosts[0]):
            await _refuse("host", scope, receive, send)
        elif origins and not (len(origins) == 1 and self._is_origin(origins[0], hosts[0])):
            await _refuse("origin", scope, receive, send)
        else:
            await self.app(scope, receive, _with_policy(send, hosts[0]))

    def _is_host(self, host: str) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        return _matches(name, self.hosts) or (self.any_number and _is_number(name))

    def _is_origin(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin in (f"http://{host}", f"https://{host}")


def content_security_policy(host: str) -> str:
    """Return what a page of the app may load: only what this server (name and port) sends."""
    return "; ".join(
        (
            f"default-src {_OWN}",
            f"connect-src 'self' data: blob: ws://{host} wss://{host}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


def _with_policy(send: Send, host: str) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = content_security_policy(host)
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Content-Type-Options"] = "nosniff"
        await send(message)

    return sent


async def _refuse(what: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # answered with status 403
        return
    text = (
        f"This {what} is not one of the app's. The option --server.allowedHosts of Streamlit "
        "lists the names that it answers to.\n"
    )
    await PlainTextResponse(text, status_code=403)(scope, receive, send)


def _address() -> str:
    return str(config.get_option("server.address") or "").strip().strip("[]").lower()


def _hostname(host: str) -> str | None:
    """Return the name in "name:port"; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # raises if it is no port
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or not host.isascii():
        return None
    return (parts.hostname or "").rstrip(".") or None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    for pattern in (text.strip().strip("[]").lower().rstrip(".") for text in patterns):
        if pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:])):
            return True
    return False


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_unspecified(address: str) -> bool:
    return not address or (_is_number(address) and ipaddress.ip_address(address).is_unspecified)
