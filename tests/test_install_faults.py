"""The parts of `install_faults` with small counts: a store holds the old or the new version, whole."""

import asyncio
import os
from types import SimpleNamespace

import pytest
from skingpt_edge.benchmarks.tools import install_disks, install_kills
from skingpt_edge.benchmarks.tools.install_disks import run_errors, run_full, run_sticks
from skingpt_edge.benchmarks.tools.install_forgeries import run_forgeries
from skingpt_edge.benchmarks.tools.install_kills import run_calls, run_kills, run_power_cuts
from skingpt_edge.runtime.install import package_reader

traces = pytest.mark.skipif(not install_kills.can_trace(), reason="needs strace")
mounts = pytest.mark.skipif(not install_disks.can_mount(), reason="needs user namespaces")


@pytest.mark.parametrize(
    ("part", "count"),
    [
        (run_forgeries, 60),
        (run_kills, 16),
        (run_power_cuts, 1),
        pytest.param(run_calls, 40, marks=traces),
        pytest.param(run_errors, 40, marks=traces),
        pytest.param(run_sticks, 2, marks=traces),
        pytest.param(run_full, 5, marks=mounts),
    ],
)
def test_a_part_with_a_small_count(part, count):
    findings = asyncio.run(part(count, print))
    assert sum(findings.counts.values())
    assert not [one for one in findings.checks if not one.met], findings


def test_what_was_not_synced_is_found_by_the_power_cuts(monkeypatch):
    monkeypatch.setattr(install_kills, "CHANGES", install_kills.CHANGES[:1])
    without_fsync = SimpleNamespace(**{**vars(os), "fsync": lambda _: None})
    for name, instead in {"os": without_fsync, "sync_folder": lambda _: None}.items():
        with monkeypatch.context() as patch:
            patch.setattr(package_reader, name, instead)
            findings = asyncio.run(run_power_cuts(3, print))
            assert [one.what for one in findings.checks if not one.met], name
