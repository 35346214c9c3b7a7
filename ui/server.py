"""Which requests the server answers, and what its pages may fetch.

A page of a stranger can make its own host name point to this computer (DNS rebinding) and then read
photos and start trainings as if it were the app. Streamlit's ``server.allowedHosts`` stops that for
the websocket only, so a middleware checks every request.
"""

import functools
import ipaddress
from urllib.parse import urlsplit

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit import config

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this computer that no other computer can answer to."""

TILE_HOSTS = ("https://tile.openstreetmap.org", "https://server.arcgisonline.com")
"""Servers of the online maps, which are asked only after a visitor chose such a map."""

_OWN = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Streamlit, Plotly and Vega write inline styles, evaluate expressions and draw from blobs."""


_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
_BEYOND = "x-geoclip-beyond-loopback"
"""Header that the guard alone sets: the request came from, or to, an address beyond loopback."""


def reached_beyond_loopback() -> bool:
    """Return whether other computers may reach the app, or this page was opened from one.

    The address that Streamlit is configured with says the first, unless another program serves the
    app (``uvicorn app:app --host 0.0.0.0``); the connection of the page says the second.
    """
    return _bound_beyond_loopback() or _BEYOND in st.context.headers


def _bound_beyond_loopback() -> bool:
    address = _address()
    if not address:
        return Guard.serves  # without an address, a server listens on all of them
    if address == "localhost":
        return False
    return not _is_loopback(address)  # also if it is a name of this computer


def guards() -> list[Middleware]:
    """Return the middleware of the app."""
    return [Middleware(Guard)]


def routes() -> list[Route]:
    """Return what the app serves besides its pages: the names of towns for its maps."""
    return [Route("/towns/{cell}.json", towns)]


def towns(request: Request) -> Response:
    """Answer with the towns of a cell of one degree, "48_2" or "-34_-71" by its south-west corner.

    Each is [latitude, longitude, name, 1 if a county or state has the same name else 0].
    """
    latitude, _, longitude = request.path_params["cell"].partition("_")
    try:
        corner = int(latitude), int(longitude)
    except ValueError:
        return PlainTextResponse("There is no such cell.\n", status_code=404)
    headers = {"Cache-Control": "public, max-age=86400"}
    return JSONResponse(_towns_of(*corner), headers=headers)


@functools.lru_cache(maxsize=1024)
def _towns_of(latitude: int, longitude: int) -> list[tuple[float, float, str, int]]:
    # imported at the first request, so that the server starts fast
    from geoclip_core.earth.gazetteer import Gazetteer

    return Gazetteer.load().towns_in(latitude, longitude)


class Guard:
    """Refuse requests for other hosts or from other origins; add a Content-Security-Policy.

    Allowed hosts are loopback names, the address that the server is bound to, and the names in
    ``server.allowedHosts`` and ``browser.serverAddress``, and the numeric address that the request
    came to. A server that is bound to all addresses of the computer also answers to any numeric
    address, which cannot be rebound. An origin is the host of the request or, behind a proxy, one
    of ``server.corsAllowedOrigins``.
    """

    serves = False
    """Whether this process has a server; tests of pages have none."""

    def __init__(self, app: ASGIApp) -> None:
        Guard.serves = True
        self.app = app
        self.any_number = _is_unspecified(_address())
        self.origins = tuple(config.get_option("server.corsAllowedOrigins"))
        own = () if self.any_number else (_address(),)
        self.hosts = (*LOOPBACK, *own, *_configured_hosts())
        # Streamlit would check the websocket again, but has no pattern for numeric addresses.
        config.set_option("server.allowedHosts", ["*"], "ui/server.py")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with status 403, or pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self._is_host(hosts[0], scope):
            await _refuse("host", scope, receive, send)
        elif origins and not (len(origins) == 1 and self._is_origin(origins[0], hosts[0])):
            await _refuse("origin", scope, receive, send)
        else:
            await self.app(_marked(scope), receive, _with_policy(send, hosts[0]))

    def _is_host(self, host: str, scope: Scope) -> bool:
        name = _hostname(host)
        if name is None:
            return False
        if _is_number(name) and (self.any_number or name == _end(scope, "server")):
            return True
        return _matches(name, self.hosts)

    def _is_origin(self, origin: str, host: str) -> bool:
        return origin in self.origins or origin in (f"http://{host}", f"https://{host}")


def content_security_policy(host: str) -> str:
    """Return what a page may load: what this server (name and port) sends, and online maps."""
    return "; ".join(
        (
            f"default-src {_OWN}",
            f"img-src {_OWN} {' '.join(TILE_HOSTS)}",
            f"connect-src 'self' data: blob: ws://{host} wss://{host}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            "frame-ancestors 'self'",
        )
    )


def _marked(scope: Scope) -> Scope:
    """Return a request with the header `_BEYOND` if it did not stay within this computer."""
    name = _BEYOND.encode()
    headers = [header for header in scope["headers"] if header[0].lower() != name]
    if not _stayed_here(scope):
        headers.append((name, b"1"))
    return {**scope, "headers": headers}


def _stayed_here(scope: Scope) -> bool:
    """Return whether a request came from this computer to a loopback address, not by a proxy."""
    headers = Headers(scope=scope)
    host = _hostname(headers["host"]) or ""
    return (
        _is_loopback(_end(scope, "server"))
        and _is_loopback(_end(scope, "client"))
        and (host == "localhost" or _is_loopback(host))
        and not any(name in headers for name in _OF_PROXIES)
    )


def _end(scope: Scope, which: str) -> str:
    """Return the address of the "server" or "client" of a request, "" if it has none."""
    end = scope.get(which)
    return str(end[0]).partition("%")[0].lower() if end else ""  # without the IPv6 zone


@functools.cache
def _configured_hosts() -> tuple[str, ...]:
    """Return the hosts in Streamlit's configuration, which the guard overrides."""
    configured = list(config.get_option("server.allowedHosts"))
    if config.is_manually_set("browser.serverAddress"):
        configured.append(config.get_option("browser.serverAddress"))
    return tuple(configured)


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


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 address on an IPv6 socket
    return (mapped or address).is_loopback


def _is_unspecified(address: str) -> bool:
    return not address or (_is_number(address) and ipaddress.ip_address(address).is_unspecified)
