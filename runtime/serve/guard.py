"""Who may ask: the first thing that every request meets, before it is routed and before its body is read.

A page of another site that is open in a browser on this machine reaches 127.0.0.1, too. So `Host` must be exactly ours
(a name that resolves to 127.0.0.1 is not enough), `Origin` must be ours if there is one, and a token is needed, which
no page can read. No CORS header is ever sent, and no cookie is used.
"""

import hmac
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from .page_files import PAGE, PAGE_PATHS
from .problems import Problem

OPEN_ROUTES = {"/healthz", "/readyz", *PAGE_PATHS}
"""Without a token: they say nothing of patients."""
SAME_SITE = {b"same-origin", b"none"}
NAVIGATION = {b"sec-fetch-mode": [b"navigate"], b"sec-fetch-dest": [b"document"]}
"""What a browser sends when a window is to show an address. Nobody else can read what is shown."""


class Guard:
    """An ASGI application in front of another."""

    def __init__(self, app: ASGIApp, *, port: int | None, token: str) -> None:
        """`port`: None on a Unix socket, where `Host` is `localhost`."""
        names = ["127.0.0.1", "localhost"]
        hosts = ["localhost"] if port is None else [f"{name}:{port}" for name in names]
        self._hosts = {host.encode() for host in hosts} | ({n.encode() for n in names} if port == 80 else set())
        self._origins = {b"http://" + host for host in self._hosts}
        self._token = token.encode()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem."""
        if scope["type"] == "http":
            self._check(scope["path"], scope["headers"])
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        found: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            found.setdefault(name, []).append(value)
        if len(found.get(b"host", [])) != 1 or found[b"host"][0] not in self._hosts:
            raise Problem("host_not_allowed", "The Host header is not this service's own address.")
        origins, sites = found.get(b"origin", []), found.get(b"sec-fetch-site", [])
        # The kiosk's browser comes to the page from a file, which is another site.
        visit = path == PAGE and all(found.get(name) == value for name, value in NAVIGATION.items())
        if not set(origins) <= self._origins or len(origins) > 1 or not (visit or set(sites) <= SAME_SITE):
            raise Problem("origin_not_allowed", "Requests of pages from another origin are refused.")
        if path not in OPEN_ROUTES:
            self._check_token(found.get(b"authorization", []))

    def _check_token(self, given: list[bytes]) -> None:
        if not given:
            raise Problem("token_missing", "The request has no token: send 'Authorization: Bearer TOKEN'.")
        scheme, _, token = given[0].partition(b" ")
        if len(given) > 1 or scheme.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Problem("token_wrong", "The token is not this service's: look into its token file.")
