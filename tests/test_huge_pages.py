"""Weights on huge pages: moved, unchanged, and never in the way."""

import mmap
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from skingpt_edge.runtime import huge_pages
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.skingpt import SkinGPT

SIZE = 4 * huge_pages.LEAST


def on_huge_pages() -> int:
    found = re.search(r"AnonHugePages:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) * 1024


@pytest.fixture
def memory():
    """A large private mapping on pages of 4 KiB, filled."""
    mapping = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    values = np.frombuffer(mapping, np.uint32)
    values[:] = np.arange(len(values))
    yield values
    del values


def test_a_large_mapping_is_moved_and_holds_what_it_held(memory):
    before = on_huge_pages()
    moved = huge_pages.collapse()
    if not moved:
        pytest.skip("this system has no MADV_COLLAPSE")
    assert on_huge_pages() - before > SIZE // 2
    assert (memory == np.arange(len(memory))).all()


def test_it_ends_when_told_to(memory):
    blocks = []
    moved = huge_pages.collapse(lambda seconds: bool(blocks.append(seconds)))
    assert len(blocks) <= 1
    assert moved <= huge_pages.BLOCK


def test_a_system_that_cannot_do_it_is_asked_once(monkeypatch, memory):
    asked = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda *block: bool(asked.append(block)))
    assert huge_pages.collapse() == 0
    assert len(asked) == 1


@pytest.mark.parametrize(("options", "wanted"), [(Options(huge_pages=True), True), (Options(), False)])
def test_a_model_does_it_in_the_background_until_it_is_closed_and_only_when_asked(options, wanted, monkeypatch):
    begun = []
    monkeypatch.setattr(huge_pages, "collapse", lambda rest: begun.append(threading.current_thread().name))
    with SkinGPT.open(options=options):
        pass
    assert begun == ["huge pages"] * wanted
    assert not [thread for thread in threading.enumerate() if thread.name == "huge pages"]
