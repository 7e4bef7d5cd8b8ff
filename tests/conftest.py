"""Bundles made from the golden checkpoint by the real exporter, and pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service import RunningService, running
from support import GOLDEN, export


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Nothing is remembered in the cache of the person who runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory) -> Callable[[str, str], Path]:
    """A bundle of the golden checkpoint in a vision precision and LLM type, made once."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(vision: str, llm_type: str) -> Path:
        target = folder / f"{vision}-{llm_type}"
        if not target.exists():
            result = export(target, vision, llm_type, "--pictures", GOLDEN / "images", "--accept-parity")
            assert result.returncode == 0, result.stderr
        return target

    return make


@pytest.fixture(scope="session")
def exact_bundle(make_bundle) -> Path:
    return make_bundle("f32", "f32")


@pytest.fixture
def photo() -> Image.Image:
    """An RGB picture with structure, wider than high."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack((x * 4, y * 5, (x + y) * 2), axis=-1).astype(np.uint8))


@pytest.fixture(scope="session")
def service(tmp_path_factory) -> Iterator[RunningService]:
    """A service of the demonstration bundle that tests share; one that harms it starts its own."""
    folder = tmp_path_factory.mktemp("service")
    with running(folder, XDG_CACHE_HOME=str(tmp_path_factory.getbasetemp() / "cache")) as found:
        yield found
