"""A running service goes on with a newly installed version of its bundle, and loses no request."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

import pytest
from service import RunningService, running, until
from skingpt_edge.benchmarks.tools.install_packages import Trusted, make_trusted, parts
from skingpt_edge.runtime.bundle import UNSIGNED, default_bundle
from skingpt_edge.runtime.install import store
from skingpt_edge.runtime.install.installing import install, roll_back

DEMO = {path.name: path.read_bytes() for path in sorted(default_bundle().iterdir())}


@pytest.fixture
def trusted(tmp_path, monkeypatch) -> Trusted:
    made = make_trusted(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "SYSTEM_STORE", tmp_path / "system")
    return made


def install_demo(trusted: Trusted, version: int, *, signed: bool = True, **changed: bytes) -> None:
    files = {"bundle.json": DEMO["bundle.json"], **DEMO}
    if changed:
        manifest = json.loads(files["bundle.json"])
        plain = parts({**files, **changed}, None)
        manifest["files"] = {name: one for name, one in plain.index["files"].items() if name != "bundle.json"}
        files = {**files, **changed, "bundle.json": json.dumps(manifest).encode()}
    package = trusted.folder / f"{version}.skingpt"
    made = parts(files, trusted.key if signed else None, version=version, name="demo")
    package.write_bytes(made.package)
    install(package, unsigned=not signed)


def events(service: RunningService, name: str) -> list[dict]:
    return [line for line in service.log if line["event"] == name]


def version(report: dict) -> int:
    return report["bundle"]["installed"]["version"]


def reload(service: RunningService) -> None:
    service.process.send_signal(signal.SIGUSR1)


@contextmanager
def slowed(pid: int) -> Iterator[None]:
    """A process gets a sixth of its time, so that its answers take long."""
    over = Event()

    def pulse() -> None:
        with suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.5)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.1)

    thread = Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_reload_takes_the_new_version_and_loses_no_request(trusted, tmp_path):
    install_demo(trusted, 1)
    # What is being answered takes longer than a process may be silent.
    with running(tmp_path, "--conversations", "1", "--queue", "20", "--hang-seconds", "5", bundle="demo") as service:
        assert version(service.report()) == 1
        reload(service)
        until(lambda: bool(events(service, "bundle_kept")))
        install_demo(trusted, 2, signed=False)
        found: list[dict] = []
        clients = [Thread(target=lambda: found.append(service.report())) for _ in range(9)]
        old = service.worker()
        with slowed(old):
            for client in clients[:6]:
                client.start()
            until(lambda: "skingpt_requests_now 6.0" in service.request("GET", "/metrics")[2].decode())
            reload(service)
            until(lambda: bool(events(service, "bundle_changes")))
            for client in clients[6:]:
                client.start()
            until(lambda: len(found) == 6, 600)
        for client in clients:
            client.join()
        assert sorted(map(version, found)) == [1] * 6 + [2] * 3
        after = service.report()
        assert (version(after), after["notice"].endswith(UNSIGNED)) == (2, True)

        # One that cannot be loaded: the version before goes on.
        broken = bytearray(DEMO["llm.gguf"])
        broken[-100_000:] = os.urandom(100_000)
        install_demo(trusted, 3, **{"llm.gguf": bytes(broken)})
        starts = len(events(service, "worker_ready"))
        reload(service)
        until(lambda: bool(events(service, "bundle_unusable")) and len(events(service, "worker_ready")) > starts)
        assert version(service.report()) == 2
        roll_back("demo")
        reload(service)
        until(lambda: len(events(service, "bundle_kept")) == 2)
        assert version(service.report()) == 2
        assert service.stop() == 0
    reasons = [line["code"] for line in events(service, "worker_restarts")]
    assert reasons == ["reloaded", "reloaded", "not_loaded"]


def test_a_version_that_is_served_is_not_removed_by_upgrades(trusted, tmp_path):
    install_demo(trusted, 1)
    with running(tmp_path, bundle="demo") as service:
        for number in (2, 3):
            install_demo(trusted, number)
        os.kill(service.worker(), signal.SIGKILL)
        until(lambda: len(events(service, "worker_ready")) == 2)
        assert version(service.report()) == 1
        reload(service)
        until(lambda: len(events(service, "worker_ready")) == 3)
        assert version(service.report()) == 3
        install_demo(trusted, 4)
        kept = {path.name.split("-")[0] for path in (trusted.store / "demo").iterdir() if path.is_dir()}
        assert kept == {"4", "3"}
        assert service.stop() == 0
