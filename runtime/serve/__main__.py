"""The server's process: `python -m skingpt_edge.runtime.serve SETTINGS`, started by `skingpt serve`."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from ...engines.errors import BundleError, SkinGPTError
from .app import make_app
from .child import protect_memory
from .http_protocol import LimitedProtocol
from .listener import listen
from .logs import log, take_over_logging
from .model_process import BundleUnusable
from .notify import notify
from .service import Service
from .settings import KEEP_ALIVE_SECONDS, MAX_HEADERS, STOP_SECONDS, Settings
from .token_file import default_token_file, make_token, read_token

WATCHDOG_SECONDS = 5
EXPIRE_SECONDS = 5


class Server(uvicorn.Server):
    """uvicorn, ending as we want it: every request that is being answered gets its end, then exit code 0."""

    service: Service

    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002
        # Not noted as uvicorn does, which would raise the signal again at the end.
        if not self.should_exit:
            self.should_exit = True
            asyncio.get_running_loop().call_soon_threadsafe(self.service.model.stop)


async def serve(settings: Settings, listener: socket.socket, token: str) -> int:
    """Serve until a signal comes; the exit code."""
    service = Service(settings)
    port = None if settings.socket else listener.getsockname()[1]
    config = uvicorn.Config(
        make_app(service, port=port, token=token),
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADERS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = Server(config)
    server.service = service
    code = 0

    async def keep_model() -> None:
        nonlocal code
        try:
            await service.model.run()
        except BundleUnusable as error:
            print(f"error: {error.args[1]}", file=sys.stderr)
            code = BundleError.exit_code
            server.should_exit = True

    await service.decoder.start()
    log("listening", address=settings.socket or f"http://127.0.0.1:{port}")
    tasks = [asyncio.create_task(work) for work in (keep_model(), _tend(service), _tell_ready(service))]
    try:
        await server.serve([listener])
    finally:
        service.model.stop()
        service.sessions.clear()
        notify("STOPPING=1")
        await asyncio.wait(tasks[:1], timeout=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.decoder.close()
        if path := settings.socket_path:
            path.unlink(missing_ok=True)
    log("stopped")
    return code


async def _tend(service: Service) -> None:
    """Wipe conversations that nobody goes on with; tell systemd that this loop turns."""
    while True:
        await asyncio.sleep(EXPIRE_SECONDS)
        service.sessions.expire()
        notify("WATCHDOG=1")


async def _tell_ready(service: Service) -> None:
    while not service.model.ready:
        await asyncio.sleep(0.05)
        notify("EXTEND_TIMEOUT_USEC=30000000")
    notify("READY=1\nSTATUS=Ready")


def get_token(path: Path) -> str:
    """The token in this file; a new one is shown. Raises InputError."""
    if path.exists():
        return read_token(path)
    token = make_token(path)
    print(f"A new token, shown this once and kept in {path}:\n{token}", file=sys.stderr, flush=True)
    return token


def main() -> int:
    settings = Settings.from_json(sys.argv[1])
    protect_memory()
    take_over_logging()
    os.umask(0o077)
    try:
        token = get_token(Path(settings.token_file) if settings.token_file else default_token_file())
        listener = listen(settings.port, settings.socket_path)
    except SkinGPTError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    with listener:
        return asyncio.run(serve(settings, listener, token))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    sys.exit(main())
