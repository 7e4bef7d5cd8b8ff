"""Everything that would keep the service from starting, or from answering. `skingpt serve --check` does no more."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from ...engines.errors import EngineError, EngineUnavailable, SkinGPTError
from ..bundle import Progress
from ..gpu_requirements import check_gpu, check_gpu_memory
from ..machine import available_memory
from ..options import Options
from ..requirements import gigabytes, needed_memory
from ..resolving import resolve
from ..verification import open_bundle
from .listener import listen
from .settings import Settings
from .token_file import check_token

NEEDED = ("starlette", "uvicorn", "h11", "prometheus_client", "msgspec")


def find_problems(settings: Settings, options: Options, progress: Progress | None = None) -> Iterator[SkinGPTError]:
    """All that is wrong; each error has the exit code that `skingpt serve` ends with. `progress`: of `open_bundle`."""
    checks: tuple[Callable[[], None], ...] = (
        check_libraries,
        lambda: check_address(settings),
        lambda: check_token(Path(settings.token_file or "")),
        lambda: check_bundle(settings, options, progress),
    )
    for check in checks:
        try:
            check()
        except SkinGPTError as error:
            yield error


def check_libraries() -> None:
    """Raises EngineUnavailable if a library of the service is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineUnavailable(f"not installed: {', '.join(missing)}: pip install 'skingpt-edge[serve]'")


def check_bundle(settings: Settings, options: Options, progress: Progress | None = None) -> None:
    """Raises BundleError, EngineError if it does not fit into memory, EngineUnavailable for a GPU that is not there.

    Also InputError for options that cannot be had.
    """
    bundle = open_bundle(Path(settings.bundle), verify=settings.verify, progress=progress)
    setup = resolve(bundle, options)
    check_gpu(setup)
    check_gpu_memory(bundle, setup)
    needed, free = needed_memory(bundle, setup), available_memory()
    if free is not None and needed > free:
        raise EngineError(
            f"too little memory: {options.conversations} conversations at once need {gigabytes(needed)}, and only "
            f"{gigabytes(free)} are free: lower --conversations or --context, take a smaller bundle, or close other "
            "programs"
        )


def check_address(settings: Settings) -> None:
    """Raises EngineError if it is taken, InputError if it cannot be used."""
    listen(settings.port, settings.socket_path).close()
    if path := settings.socket_path:
        path.unlink()
