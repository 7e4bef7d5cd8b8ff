"""The server's process: `python -m skingpt_edge.runtime.serve SETTINGS`, started by `skingpt serve`."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from ...engines.errors import BundleError, EngineError, InputError, SkinGPTError
from ..printable import one_line
from .app import make_app
from .child import protect_memory, return_memory
from .http_protocol import LimitedProtocol
from .listener import BACKLOG, listen
from .logs import log, log_error, take_over_logging
from .model_process import BundleUnusable
from .notify import notify
from .service import Service
from .settings import KEEP_ALIVE_SECONDS, MAX_HEADERS, STOP_SECONDS, STOP_SIGNALS, Settings
from .token_file import default_token_file, get_token

TEND_SECONDS = 5
EXIT_CODES = {"bundle_unusable": BundleError.exit_code, "value_unusable": InputError.exit_code}
"""Of a model that cannot be loaded; any other reason is a library's."""


class Server(uvicorn.Server):
    """uvicorn, which leaves signals to `serve`: it would raise them again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, listener: socket.socket, token: str) -> int:
    """Serve until a signal comes; the exit code."""
    service = Service(settings)
    port = None if settings.socket else listener.getsockname()[1]
    config = uvicorn.Config(
        make_app(service, port=port, token=token),
        http=LimitedProtocol,
        backlog=BACKLOG,
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
    code = 0

    def stop() -> None:
        """What is being answered ends with an error; of a second signal, connections are not waited for."""
        server.force_exit = server.should_exit
        server.should_exit = True
        notify("STOPPING=1")
        service.stop()

    async def keep_model() -> None:
        nonlocal code
        try:
            await service.model.run()
        except BundleUnusable as error:
            reason, detail = error.args
            print(f"error: {one_line(detail)}", file=sys.stderr, flush=True)
            code = EXIT_CODES.get(reason, EngineError.exit_code)
            stop()
        except Exception as error:  # nobody would start a model any more: whoever started the service is to do it anew
            log_error("supervision_failed", error)
            code = EngineError.exit_code
            stop()

    _on_signals(stop)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, service.model.reload)
    await service.decoder.start()
    log("listening", address=settings.socket or f"http://127.0.0.1:{port}")
    tasks = [asyncio.create_task(work) for work in (keep_model(), _tend(service), _tell_ready(service))]
    try:
        await server.serve([listener])
    finally:
        service.stop()
        service.sessions.clear()
        await asyncio.wait(tasks[:1], timeout=STOP_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        service.decoder.close()
    log("stopped")
    return code


def _on_signals(stop: Callable[[], None]) -> None:
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as after `nohup`
            asyncio.get_running_loop().add_signal_handler(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by `skingpt serve`


async def _tend(service: Service) -> None:
    """Wipe conversations that nobody goes on with; tell systemd that this loop turns."""
    while True:
        await asyncio.sleep(TEND_SECONDS)
        service.sessions.expire()
        notify("WATCHDOG=1")


async def _tell_ready(service: Service) -> None:
    """systemd waits longer for a start that takes long, but not for one that fails again and again."""
    model = service.model
    while not model.ready:
        if model.healthy:
            notify("EXTEND_TIMEOUT_USEC=30000000")
        await asyncio.sleep(0.1)
    while not notify("READY=1\nSTATUS=Ready"):
        await asyncio.sleep(0.1)


def main() -> int:
    settings = Settings.from_json(sys.argv[1])
    protect_memory()
    return_memory()
    take_over_logging()
    os.umask(0o077)
    try:
        path = Path(settings.token_file) if settings.token_file else default_token_file()
        token, new = get_token(path)
        listener = listen(settings.port, settings.socket_path)
    except SkinGPTError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr, flush=True)
        return error.exit_code
    if new:
        _show_token(path, token)
    try:
        with listener:
            return asyncio.run(serve(settings, listener, token))
    finally:
        if settings.socket_path:
            settings.socket_path.unlink(missing_ok=True)


def _show_token(path: Path, token: str) -> None:
    """Once, and to a person only: not into a journal or a log file, which others read and which stays."""
    if sys.stderr.isatty():
        print(f"A new token, shown this once and kept in {path}:\n{token}", file=sys.stderr, flush=True)
    else:
        log("token_made", place=str(path))


if __name__ == "__main__":
    sys.exit(main())
