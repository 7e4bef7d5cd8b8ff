"""Requests in many combinations of Host, Origin, token, method and content type: only the allowed ones may pass.

What must happen to each is computed by the rule in this file, which uses nothing of the service's own check.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from .service_checks import Findings, Say, tally
from .service_client import Connection, Reply, fetch, new_photo, request
from .service_start import RunningService, running

JSON, PICTURE = ("application/json",), ("image/jpeg", "image/png", "image/webp")
UNKNOWN = "f" * 32


@dataclass(frozen=True)
class Route:
    """A route, and a request that is allowed."""

    path: str
    method: str
    status: int
    """Of the answer to a request that passes."""
    code: str | None = None
    """Of the same, if it is an error of the route's own: such a request costs no model's time."""
    body: bytes = b""
    types: tuple[str, ...] = ()
    """Content types; none if there is no body."""
    open: bool = False
    """Without a token."""


ROUTES = (
    Route("/healthz", "GET", 200, open=True),
    Route("/readyz", "GET", 200, open=True),
    Route("/metrics", "GET", 200),
    Route("/v1/models", "GET", 200),
    Route("/v1/models/other", "GET", 404, "model_not_found"),
    Route("/v1/chat/completions", "POST", 400, "value_unusable", b'{"model": 5}', JSON),
    Route("/v1/reports", "POST", 422, "image_unusable", b"no picture", PICTURE),
    Route("/v1/conversations", "POST", 422, "image_unusable", b"no picture", PICTURE),
    Route("/v1/conversations/CONVERSATION/questions", "POST", 400, "value_unusable", b'{"question": 5}', JSON),
    Route(f"/v1/conversations/{UNKNOWN}", "DELETE", 404, "conversation_unknown"),
    Route("/nothing", "GET", 404, "route_unknown"),
    Route("/v1/responses", "POST", 404, "route_unknown", b"{}"),  # of OpenAI's API, but not here
    Route("/about", "GET", 200),
    Route("/v1/conversations/CONVERSATION/report", "POST", 400, "value_unusable", b'{"seed": -1}', JSON),
    Route("/v1/conversations/CONVERSATION/consistency", "POST", 400, "value_unusable", b'{"choices": 1}', JSON),
    Route("/kiosk/", "GET", 200, open=True),
    Route("/kiosk/main.js", "GET", 200, open=True),
)
HOSTS = (
    "evil.example", "evil.example:PORT", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1:PORT0", "127.0.0.1:0PORT",
    "localhost.:PORT", "127.0.0.1.:PORT", "[::1]:PORT", "::1:PORT", "127.1:PORT", "2130706433:PORT", "0x7f000001:PORT",
    "0.0.0.0:PORT", "127.0.0.1.nip.io:PORT", "localhost.evil.example:PORT", "LOCALHOST:PORT", "me@127.0.0.1:PORT", "",
    ":PORT", "kiosk.local:PORT", "10.0.0.5:PORT", "127.0.0.1:PORT,evil.example", "127.0.0.2:PORT",
)  # fmt: skip
"""Each alone; none of them is ours."""
OUR_HOSTS = ("127.0.0.1:PORT", "localhost:PORT")
ORIGINS = (
    "null", "file://", "https://127.0.0.1:PORT", "http://127.0.0.1", "http://127.0.0.1:1", "http://evil.example",
    "http://localhost.evil.example:PORT", "http://127.0.0.1:PORT/", "HTTP://127.0.0.1:PORT", "http://[::1]:PORT", "",
    "http://127.0.0.1.nip.io:PORT", "chrome-extension://abcdef", "http://127.0.0.1:PORT http://evil.example",
)  # fmt: skip
OUR_ORIGINS = ("http://127.0.0.1:PORT", "http://localhost:PORT")
SITES = ("cross-site", "same-site", "", "other")
OUR_SITES = ("same-origin", "none")
TOKENS = (
    ("Bearer wrong",), ("Bearer",), ("",), ("TOKEN",), ("Basic TOKEN",), ("Bearer TOKENx",), ("Bearer SHORT",),
    ("Bearer TOKEN", "Bearer TOKEN"), ("Bearer wrong", "Bearer TOKEN"), ("Bearer TOKEN TOKEN",), ("Bearer LOWER",),
)  # fmt: skip
OUR_TOKENS = (("Bearer TOKEN",), ("bearer TOKEN",))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW")
TYPES = (
    (), ("text/plain",), ("application/x-www-form-urlencoded",), ("multipart/form-data; boundary=x",), ("text/json",),
    ("",), ("application/json", "text/plain"), ("image/svg+xml",), ("*/*",),
)  # fmt: skip
"""No route takes one of these."""


@dataclass(frozen=True)
class Case:
    """A request. PORT, TOKEN and CONVERSATION stand for the service's own; SHORT and LOWER for a changed token."""

    route: Route
    method: str
    hosts: tuple[str, ...] = (OUR_HOSTS[0],)
    origins: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    tokens: tuple[str, ...] = OUR_TOKENS[0]
    types: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    """Further header lines."""
    target: str = ""
    """In place of the route's path."""
    version: str = "1.1"


def must_be(case: Case) -> tuple[int, str | None]:
    """Status and code of the answer: the rule. What is wrong first in this order decides."""
    route, known = case.route, not case.target and case.route.code != "route_unknown"
    foreign = any(one not in OUR_ORIGINS for one in case.origins) or any(one not in OUR_SITES for one in case.sites)
    no_token = "token_wrong" if case.tokens else "token_missing"
    methods = {"GET", "HEAD"} if route.method == "GET" else {route.method}
    refusals: tuple[tuple[bool, int, str], ...] = (
        (len(case.hosts) > 1 or (not case.hosts and case.version == "1.1"), 400, "request_malformed"),
        (case.hosts not in {(host,) for host in OUR_HOSTS}, 421, "host_not_allowed"),
        (foreign or len(case.origins) > 1, 403, "origin_not_allowed"),
        (
            case.tokens not in OUR_TOKENS and not (route.open and known),
            401,
            "invalid_api_key" if _openai(route) and not case.target else no_token,
        ),
        (not known, 404, "route_unknown"),
        (case.method not in methods, 405, "method_not_allowed"),
        (bool(route.types) and case.types not in {(one,) for one in _written(route)}, 415, "content_type_wrong"),
    )
    return next(((status, code) for refused, status, code in refusals if refused), (route.status, route.code))


def _openai(route: Route) -> bool:
    """Whether its errors are in OpenAI's form."""
    return route.path.startswith(("/v1/chat/", "/v1/models", "/v1/responses"))


def _written(route: Route) -> Iterator[str]:
    """The ways in which an allowed content type may be written."""
    for one in route.types:
        yield from (one, one.upper(), f"{one}; charset=utf-8")


def cases() -> list[Case]:
    """All requests: each thing that is wrong on every route, several together on two routes, and special ones."""
    found = [case for route in ROUTES for case in _one_thing_different(_allowed(route))]
    for route in (ROUTES[3], ROUTES[6]):
        hosts = ((OUR_HOSTS[1],), ("evil.example:PORT",), ("localhost.:PORT",))
        origins, tokens = ((), (OUR_ORIGINS[1],), ("null",)), (OUR_TOKENS[0], (), ("Bearer wrong",))
        methods, types = ("GET", "POST"), (("image/jpeg",), ("text/plain",))
        found += [
            replace(_allowed(route), hosts=host, origins=origin, tokens=token, method=method, types=kind)
            for host, origin, token, method, kind in product(hosts, origins, tokens, methods, types)
        ]
    return list(dict.fromkeys([*found, *_special()]))


def _allowed(route: Route) -> Case:
    return Case(route, route.method, types=route.types[:1])


def _one_thing_different(case: Case) -> Iterator[Case]:
    yield case
    yield from (replace(case, hosts=(host,)) for host in (*HOSTS, *OUR_HOSTS))
    yield from (
        replace(case, hosts=hosts) for hosts in ((), OUR_HOSTS, (OUR_HOSTS[0],) * 2, (OUR_HOSTS[0], "evil.example"))
    )
    yield replace(case, hosts=(), version="1.0")
    yield from (replace(case, origins=(origin,)) for origin in (*ORIGINS, *OUR_ORIGINS))
    yield from (replace(case, origins=origins) for origins in (OUR_ORIGINS, (OUR_ORIGINS[0], "null")))
    yield from (replace(case, sites=(site,)) for site in (*SITES, *OUR_SITES))
    yield from (replace(case, tokens=tokens) for tokens in (*TOKENS, *OUR_TOKENS, ()))
    yield from (replace(case, method=method) for method in METHODS)
    if case.route.types:
        yield from (replace(case, types=types) for types in TYPES)
        yield from (replace(case, types=(one,)) for one in _written(case.route))


def _special() -> Iterator[Case]:
    report, models, health = (_allowed(ROUTES[number]) for number in (6, 3, 0))
    # What a browser asks before it sends a page's request to another origin.
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    for case in (report, models, health):
        yield replace(case, method="OPTIONS", origins=("http://evil.example",), tokens=(), more=asked)
        yield replace(case, method="OPTIONS", tokens=(), more=asked)
    # The token is taken from its header alone.
    for more in ("Cookie: token=TOKEN", "X-Api-Key: TOKEN", "Proxy-Authorization: Bearer TOKEN"):
        yield replace(models, tokens=(), more=(more,))
    for query in ("?token=TOKEN", "?access_token=TOKEN", "?api_key=TOKEN"):
        yield replace(models, tokens=(), route=replace(models.route, path=f"/v1/models{query}"))
    # A target is a path; these are others, whatever a server before us would make of them.
    targets = (
        "http://127.0.0.1:PORT/healthz", "http://evil.example/healthz", "http://evil.example/v1/models", "//healthz",
        "/healthz/", "/healthz/../metrics", "/./healthz", "/healthz%00", "*", "/%2e%2e/healthz", "/healthz;x",
    )  # fmt: skip
    for target in targets:
        yield replace(health, target=target, tokens=())
        yield replace(models, target=target)
    # What a proxy would say of another client is not listened to.
    yield replace(models, hosts=("evil.example",), more=("X-Forwarded-Host: 127.0.0.1:PORT",))
    yield replace(models, tokens=(), more=("X-Forwarded-For: 127.0.0.1",))
    yield replace(report, method="POST", more=("X-HTTP-Method-Override: DELETE",))
    yield replace(models, more=("Upgrade: websocket", "Connection: Upgrade"), origins=("http://evil.example",))


def as_bytes(case: Case, words: Mapping[str, str]) -> bytes:
    """The request as it is sent; `words`: what PORT and the others stand for."""
    headers = [
        *(f"Host: {one}" for one in case.hosts),
        *(f"Origin: {one}" for one in case.origins),
        *(f"Sec-Fetch-Site: {one}" for one in case.sites),
        *(f"Authorization: {one}" for one in case.tokens),
        *(f"Content-Type: {one}" for one in case.types),
        *case.more,
    ]
    text = "\r\n".join([f"{case.method} {case.target or case.route.path} HTTP/{case.version}", *headers, ""])
    for word, value in words.items():
        text = text.replace(word, value)
    return f"{text}Content-Length: {len(case.route.body)}\r\n\r\n".encode() + case.route.body


def wrong(case: Case, reply: Reply) -> str | None:
    """What is wrong with the answer to a request; None if nothing."""
    status, code = must_be(case)
    if not reply.whole or reply.status != status:
        return f"status {reply.status}, not {status}"
    if status >= 400 and case.method != "HEAD":
        try:
            document = reply.json()
        except ValueError:
            return "the error is no JSON"
        found = document["error"]["code"] if "error" in document else document.get("code")
        if found != code:
            return f"code {found}, not {code}"
    extra = [name for name in reply.headers if name.startswith("access-control-") or name == "set-cookie"]
    return f"headers {extra}" if extra else None


async def send_all(service: RunningService) -> tuple[list[Case], list[str], list[int]]:
    """All requests, what was wrong with the answers, and the answers' statuses."""
    made = await fetch(service, request(service, "POST", "/v1/conversations", new_photo(0), "Content-Type: image/jpeg"))
    token = service.token
    words = {
        "PORT": str(service.port),
        "TOKEN": token,
        "SHORT": token[:-1],
        "LOWER": token.swapcase(),
        "CONVERSATION": made.json()["id"],
    }
    found, bad, statuses = cases(), [], []
    for case in found:
        connection = await Connection.open(service)
        try:
            async with asyncio.timeout(60):
                await connection.send(as_bytes(case, words))
                connection.expect_answer(method=case.method.encode())
                reply = await connection.reply()
        finally:
            connection.close()
        statuses.append(reply.status)
        if problem := wrong(case, reply):
            bad.append(f"{problem}: {json.dumps(_shown(case))}")
    return found, bad, statuses


def _shown(case: Case) -> dict[str, Any]:
    """What is different from an allowed request."""
    usual = vars(_allowed(case.route))
    return {"route": case.route.path, **{k: v for k, v in vars(case).items() if v != usual[k] and k != "route"}}


async def run_guard(_: int, say: Say) -> Findings:
    """All combinations."""
    async with running() as service:
        sent, bad, statuses = await send_all(service)
    passed = [case for case in sent if must_be(case) == (case.route.status, case.route.code)]
    say(f"{len(sent)} combinations")
    found = Findings({"combinations": len(sent), "of them allowed": len(passed)})
    found.none("answers that are not as the rule says", bad)
    found.more = {**found.more, "statuses": tally(map(str, statuses))}
    return found
