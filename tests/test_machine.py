"""What the machine says of itself, and a child process that holds one object."""

import os
from pathlib import Path

import numpy as np
import pytest
from skingpt_edge.engines.errors import EngineError
from skingpt_edge.runtime import machine
from skingpt_edge.runtime.worker import Worker


class Adder:
    """What a worker holds in these tests."""

    def __init__(self, threads, start):
        self.opened = {"threads": threads, "pid": os.getpid(), "pool": os.environ["OMP_NUM_THREADS"]}
        self._sum = start

    def add(self, number):
        print("a library that prints")  # must not stand among the answers
        self._sum += number
        return self._sum

    def fail(self):
        raise EngineError("out of luck")

    def die(self):
        os.kill(os.getpid(), 9)


@pytest.fixture
def target(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return "test_machine:Adder"


def test_a_worker_keeps_its_object_in_a_process_of_its_own(target):
    with Worker(target, threads=1, start=3) as worker:
        assert worker.opened["pid"] != os.getpid()
        assert (worker.opened["threads"], worker.opened["pool"]) == (1, "1")
        assert [worker.ask("add", number=4), worker.ask("add", number=5)] == [7, 12]


def test_a_worker_that_fails_says_why_and_one_that_dies_too(target):
    with Worker(target, threads=1, start=0) as worker, pytest.raises(EngineError, match="Adder: out of luck"):
        worker.ask("fail")
    with Worker(target, threads=1, start=0) as worker:
        with pytest.raises(EngineError, match=r"ended with code -9 \(killed"):
            worker.ask("die")
        with pytest.raises(EngineError, match="ended with code -9"):
            worker.ask("add", number=1)


def test_memory_of_this_process_grows_by_what_it_takes():
    before = machine.process_memory()
    taken = np.full(50_000_000, 1, np.uint8)
    after = machine.process_memory()
    assert 45e6 < after.rss_anon - before.rss_anon < 60e6
    assert after.rss >= after.rss_anon
    assert len(taken)


def test_a_process_that_has_ended_has_no_memory():
    assert machine.process_memory(2**22 + 1) == machine.ProcessMemory(0, 0, 0, 0)


def test_the_machine_is_described():
    assert 1 <= machine.physical_cores() <= machine.logical_cpus() <= os.cpu_count()
    assert 0 < machine.available_memory() <= machine.total_memory()
    assert machine.processor_name()
    assert len(machine.processor_times()) == 8
    assert os.getpid() in machine.process_family(os.getppid())
    assert all(rate > 1e8 for rate in machine.read_bandwidth(1, size=1 << 26, trials=2))


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(machine, "_cpus", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_core", lambda cpu: f"{cpu // 2}")
    assert (machine.physical_cores(), machine.logical_cpus()) == (2, 4)


def test_elsewhere_what_cannot_be_known_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.available_memory() is None
    assert machine.total_memory() is None
    assert machine.processor_times() == []
