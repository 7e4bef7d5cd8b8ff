"""The kiosk page: its files, read once, and the headers that they are served with.

The files hold no secret, so they need no token. The page gets the token from the file that starts it: see
`runtime/cli/kiosk.py`.
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

PAGE = "/kiosk/"
FOLDER = files("skingpt_edge.runtime.serve").joinpath("page")
CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
"""By the end of a file's name; other files in the folder are not served."""
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    # Text never becomes markup: the browser refuses to parse any.
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
NOT_ALLOWED = ("display-capture", "geolocation", "hid", "microphone", "midi", "serial", "usb")
HEADERS = {
    "content-security-policy": "; ".join(f"{name} {value}" for name, value in POLICY.items()),
    "permissions-policy": ", ".join(["camera=(self)", *(f"{name}=()" for name in NOT_ALLOWED)]),
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
PageRoute = Callable[[Request], Awaitable[Response]]


def _names() -> dict[str, str]:
    """Each path and its file's name below FOLDER."""
    found = {PAGE: "index.html"}
    for folder, prefix in ((FOLDER, ""), (FOLDER.joinpath("texts"), "texts/")):
        for file in folder.iterdir():
            if file.is_file() and file.name != "index.html" and file.name.rpartition(".")[2] in CONTENT_TYPES:
                found[f"{PAGE}{prefix}{file.name}"] = f"{prefix}{file.name}"
    return found


PAGE_PATHS = frozenset(_names())


def load_page() -> dict[str, PageRoute]:
    """A function for each path, which answers from memory."""
    return {path: _answer(name) for path, name in _names().items()}


def _answer(name: str) -> PageRoute:
    data, kind = FOLDER.joinpath(name).read_bytes(), CONTENT_TYPES[name.rpartition(".")[2]]

    async def answer(_: Request) -> Response:
        return Response(data, headers=HEADERS, media_type=kind)

    return answer
