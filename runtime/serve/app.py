"""The application: routes, and what happens around each request."""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from importlib.resources import files

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .guard import Guard
from .logs import Stopwatch, log, log_error
from .native_api import NativeApi
from .openai_api import OpenAiApi
from .page_files import load_page
from .problems import Problem, error_response, openai_shaped
from .service import Service
from .streams import GONE

SECURITY_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def make_app(service: Service, *, port: int | None, token: str) -> ASGIApp:
    """Everything between uvicorn and a `Service`; `port` is None on a Unix socket."""
    native, openai, pages = NativeApi(service), OpenAiApi(service), Pages(service)
    routes = [
        OnlyRoute("/healthz", pages.health, methods=["GET"]),
        OnlyRoute("/readyz", pages.readiness, methods=["GET"]),
        OnlyRoute("/metrics", pages.metrics, methods=["GET"]),
        OnlyRoute("/openapi.json", pages.openapi, methods=["GET"]),
        OnlyRoute("/about", native.about, methods=["GET"]),
        OnlyRoute("/v1/models", openai.models, methods=["GET"]),
        OnlyRoute("/v1/models/{model}", openai.model, methods=["GET"]),
        OnlyRoute("/v1/chat/completions", openai.chat, methods=["POST"]),
        OnlyRoute("/v1/reports", native.report, methods=["POST"]),
        OnlyRoute("/v1/conversations", native.conversation, methods=["POST"]),
        OnlyRoute("/v1/conversations/{id}", native.delete, methods=["DELETE"]),
        OnlyRoute("/v1/conversations/{id}/questions", native.question, methods=["POST"]),
        OnlyRoute("/v1/conversations/{id}/report", native.conversation_report, methods=["POST"]),
        OnlyRoute("/v1/conversations/{id}/consistency", native.consistency, methods=["POST"]),
        *(OnlyRoute(path, page, methods=["GET"], include_in_schema=False) for path, page in load_page().items()),
    ]
    router = Router(routes, redirect_slashes=False, default=_unknown)
    return Around(Guard(router, port=port, token=token), service)


class OnlyRoute(Route):
    """A route that answers other methods in our own form."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Problem."""
        allowed = self.methods or set()
        if scope["method"] not in allowed:
            raise Problem("method_not_allowed", "This route is not for this method.", allow=sorted(allowed))
        await self.app(scope, receive, send)


async def _unknown(scope: Scope, _: Receive, __: Send) -> None:
    if openai_shaped(scope["path"]):
        said = "Of OpenAI's API this service has POST /v1/chat/completions and GET /v1/models, and not this route."
        raise Problem("route_unknown", said)
    raise Problem("route_unknown", "There is no such route: /openapi.json describes those that there are.")


class Pages:
    """Routes that say how the service is."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _: Request) -> Response:
        """200 while the service can help itself; it is not while the model's process ends again and again."""
        model = self._service.model
        healthy = model.healthy
        found = {"status": "ok" if healthy else "unhealthy", "ready": model.ready, "worker_restarts": model.restarts}
        return JSONResponse(found, 200 if healthy else 503)

    async def readiness(self, _: Request) -> Response:
        """200 when a question would be answered now."""
        ready = self._service.model.ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _: Request) -> Response:
        text = files("skingpt_edge.runtime.serve").joinpath("openapi.json").read_bytes()
        return Response(text, media_type="application/json")


class Around:
    """Gives each request a number, turns errors into answers, counts and logs. The outermost application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch, request_id = Stopwatch(), secrets.token_hex(8)
        scope.setdefault("state", {})["id"] = request_id
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_security_headers(message.get("headers", []), request_id)
            await send(message)

        code = None
        try:
            await self._app(scope, receive, counted)
            status, code = scope["state"].get("ended", (status, None))
        except ClientDisconnect:
            status = GONE
        except Problem as problem:
            code = problem.code
            await self._answer(problem, scope, request_id, counted, begun=bool(status))
        except Exception as error:
            code = "internal_error"
            log_error("request_failed", error)
            inside = Problem(code, "Something went wrong inside the service; its log has the request's number.")
            await self._answer(inside, scope, request_id, counted, begun=bool(status))
        finally:
            route, method = _route(scope), _method(scope)
            self._service.metrics.request(route, method, status)
            log("request", request_id=request_id, method=method, route=route, status=status, code=code, ms=watch.ms)

    @staticmethod
    async def _answer(
        problem: Problem, scope: Scope, request_id: str, send: Callable[[Message], Awaitable[None]], *, begun: bool
    ) -> None:
        if begun:
            raise ConnectionError  # uvicorn closes the connection: what was sent is not whole
        status, headers, body = error_response(problem, scope["path"], request_id)
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        encoded.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _with_security_headers(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Headers of an answer; those that it has itself, as the page does, are left as they are."""
    own = [*headers, (b"x-request-id", request_id.encode())]
    names = {name.lower() for name, _ in own}
    return own + [(name, value) for name, value in SECURITY_HEADERS if name not in names]


def _route(scope: Scope) -> str:
    """The route's pattern, never the path that was asked for."""
    return str(getattr(scope.get("route"), "path", "unknown"))


def _method(scope: Scope) -> str:
    known = {"GET", "POST", "DELETE", "HEAD", "PUT", "PATCH", "OPTIONS"}
    return str(scope["method"]) if scope["method"] in known else "unknown"
