"""Weights on huge pages: moved, unchanged, and never in the way."""

import mmap
import re
import threading
import time
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


def test_a_mapping_that_is_made_meanwhile_gets_huge_pages_when_it_is_filled():
    before = on_huge_pages()
    with huge_pages.for_new_mappings():
        mapping = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        values = np.frombuffer(mapping, np.uint32)
        deadline = time.monotonic() + 30
        while not advised(values) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not advised(values):
            pytest.skip("this system has no transparent huge pages")
        values[:] = 1
    assert on_huge_pages() - before > SIZE // 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("huge pages")]


def advised(values) -> bool:
    """Whether the mapping of an array is to get huge pages."""
    address, here = values.__array_interface__["data"][0], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            here = int(match[1], 16) <= address < int(match[2], 16)
        elif here and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False


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
    begun, asked = [], []
    monkeypatch.setattr(huge_pages, "collapse", lambda rest: begun.append(threading.current_thread().name))
    monkeypatch.setattr(huge_pages, "_ask_for_new", lambda done: asked.append(threading.current_thread().name))
    with SkinGPT.open(options=options):
        pass
    assert begun == ["huge pages"] * wanted
    assert asked == ["huge pages for new mappings"] * wanted
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("huge pages")]
