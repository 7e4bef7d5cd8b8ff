"""An object in a child process: its methods are called, and its failures are told."""

import os
from pathlib import Path

import pytest
from skingpt_edge.engines.errors import EngineError, QuestionError
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
        raise QuestionError("out of luck")

    def die(self):
        os.kill(os.getpid(), 9)


@pytest.fixture
def target(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return "test_worker:Adder"


def test_a_worker_keeps_its_object_in_a_process_of_its_own(target):
    with Worker(target, threads=1, start=3) as worker:
        assert worker.opened["pid"] != os.getpid()
        assert (worker.opened["threads"], worker.opened["pool"]) == (1, "1")
        assert [worker.ask("add", number=4), worker.ask("add", number=5)] == [7, 12]


def test_a_worker_that_fails_says_why_and_one_that_dies_too(target):
    with Worker(target, threads=1, start=0) as worker:
        with pytest.raises(QuestionError, match=r"^out of luck$"):
            worker.ask("fail")
        assert worker.ask("add", number=1) == 1  # one bad question does not cost the loaded model
    with Worker(target, threads=1, start=0) as worker:
        with pytest.raises(EngineError, match=r"Adder: its process ended \(signal SIGKILL\)"):
            worker.ask("die")
        with pytest.raises(EngineError, match="SIGKILL"):
            worker.ask("add", number=1)


def test_a_file_in_the_current_folder_is_not_taken_for_a_library(target, tmp_path, monkeypatch):
    for name in ("numpy", "random", "json"):
        (tmp_path / f"{name}.py").write_text("print('not a library'); raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    with Worker(target, threads=1, start=1) as worker:
        assert worker.ask("add", number=1) == 2


def test_a_quiet_workers_last_words_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"exit code 1: ModuleNotFoundError: No module named 'nowhere'"):
        Worker("nowhere:Adder", threads=1, quiet=True)
