"""What the machine says of itself."""

import mmap
import os

from skingpt_edge.runtime import machine


def test_memory_of_this_process_grows_by_what_it_takes():
    before = machine.process_memory()
    # Mapped here: memory that an earlier test gave back to the C library would be taken again, and nothing grow.
    with mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as taken:
        taken.write(b"1" * len(taken))
        after = machine.process_memory()
    assert 45e6 < after.rss_anon - before.rss_anon < 130e6
    assert after.rss >= after.rss_anon


def test_a_process_that_has_ended_has_no_memory():
    assert machine.process_memory(2**22 + 1) == machine.ProcessMemory(0, 0, 0, 0)


def test_the_machine_is_described():
    assert 1 <= machine.physical_cores() <= machine.logical_cpus() <= os.cpu_count()
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.processor_name()
    assert len(machine.processor_times()) == 8
    assert os.getpid() in machine.process_family(os.getppid())
    assert all(rate > 1e7 for rate in machine.read_bandwidth(1, size=1 << 26, trials=2))


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(machine, "_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_core", lambda cpu: f"{cpu // 2}")
    assert (machine.physical_cores(), machine.logical_cpus()) == (2, 4)


def test_elsewhere_what_cannot_be_known_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.available_memory() is None
    assert machine.total_memory() is None
    assert machine.processor_times() == []
