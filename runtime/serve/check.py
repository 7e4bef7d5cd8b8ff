"""`skingpt serve --check`: everything that would keep the service from starting, or from answering."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from ...engines.errors import EngineError, EngineUnavailable, SkinGPTError
from ..options import Options
from ..requirements import requirements
from ..resolving import resolve
from ..tuning import measured_speed
from ..verification import open_bundle
from .listener import listen
from .settings import Settings
from .token_file import read_token

NEEDED = ("starlette", "uvicorn", "h11", "prometheus_client", "msgspec")


def find_problems(settings: Settings, options: Options) -> Iterator[SkinGPTError]:
    """All that is wrong; each error has the exit code that `skingpt serve` would end with."""
    checks: tuple[Callable[[], None], ...] = (
        check_libraries,
        lambda: _check_bundle(settings, options),
        lambda: _check_address(settings),
        lambda: _check_token(Path(settings.token_file or "")),
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


def _check_bundle(settings: Settings, options: Options) -> None:
    bundle = open_bundle(Path(settings.bundle), verify=settings.verify)
    setup = resolve(bundle, options)
    found = requirements(bundle, setup, measured_speed(bundle, setup))
    if not found.fits:
        raise EngineError(f"{found.sentence()} Lower --conversations or --context, or take a smaller bundle.")


def _check_address(settings: Settings) -> None:
    listen(settings.port, settings.socket_path).close()
    if path := settings.socket_path:
        path.unlink()


def _check_token(path: Path) -> None:
    """A token file that is not there yet is made at the first start, if its folder can be."""
    if path.exists() or path.is_symlink():
        read_token(path)
