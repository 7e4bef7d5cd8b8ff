"""Installing, upgrading, going back and removing; what is refused, what reports say, and how names are found."""

import fcntl
import html
import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from skingpt_edge.benchmarks.tools.install_packages import (
    FILES,
    NAME,
    Trusted,
    make_trusted,
    parts,
    small_files,
    snapshot,
    write_bundle,
)
from skingpt_edge.engines.errors import BundleError, InputError
from skingpt_edge.runtime.bundle import UNSIGNED, default_bundle, find_bundle, read_bundle
from skingpt_edge.runtime.install import installing, store, trusted_keys
from skingpt_edge.runtime.install.in_use import holding
from skingpt_edge.runtime.install.installing import install, remove, roll_back
from skingpt_edge.runtime.install.store import SYSTEM_STORE, find_installed, own_store, read_state
from skingpt_edge.runtime.skingpt import SkinGPT
from support import ROOT, run

PHOTO = ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg"
SCHEMA = json.loads((ROOT / "runtime/report.schema.json").read_text())


@pytest.fixture
def trusted(tmp_path, monkeypatch) -> Trusted:
    """A store of its own, and a key that is trusted in it."""
    made = make_trusted(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "SYSTEM_STORE", tmp_path / "system")  # not that of the machine that tests
    return made


def package(trusted: Trusted, version: int, *, key: str | None = "key", seed: int | None = None, **more) -> Path:
    """A package of a small bundle, signed by `trusted.key`, `trusted.other` or nobody."""
    made = parts(small_files(seed or version), getattr(trusted, key) if key else None, version=version, **more)
    target = trusted.folder / f"{version}.skingpt"
    target.write_bytes(made.package)
    return target


def versions(trusted: Trusted, name: str = NAME) -> list[int | None]:
    """The current version and the one before."""
    state = read_state(trusted.store / name)
    return [one.version if one else None for one in (state.current, state.previous)]


def folders(trusted: Trusted) -> int:
    """How many versions of the bundle lie in the store."""
    return sum(path.is_dir() for path in (trusted.store / NAME).iterdir())


def test_an_installed_bundle_is_the_one_that_was_packed(trusted):
    installed, before = install(package(trusted, 1))
    assert (installed.version, installed.signer.file, before.current) == (1, "trusted.pub", None)
    bundle = read_bundle(find_installed(NAME))
    assert {name: bundle.file(name).read_bytes() for name in FILES} == {n: small_files(1)[n] for n in FILES}
    assert bundle.installed == installed


def test_an_upgrade_keeps_the_version_before_and_no_other(trusted):
    for version in (1, 2, 3):
        install(package(trusted, version))
    assert (versions(trusted), folders(trusted)) == ([3, 2], 2)
    current, before = roll_back(NAME)
    assert (current.version, before.version, versions(trusted)) == (2, 3, [2, 3])
    roll_back(NAME)
    assert versions(trusted) == [3, 2]
    install(package(trusted, 4))
    assert (versions(trusted), folders(trusted)) == ([4, 3], 2)


def test_installing_the_same_again_mends_it_and_keeps_the_version_before(trusted):
    install(package(trusted, 1))
    install(package(trusted, 2))
    broken = find_installed(NAME) / "llm.gguf"
    broken.write_bytes(b"")
    install(package(trusted, 2))
    assert (versions(trusted), folders(trusted)) == ([2, 1], 2)
    assert read_bundle(find_installed(NAME)).file("llm.gguf").stat().st_size == FILES["llm.gguf"]


def test_going_back_needs_a_whole_version_to_go_back_to(trusted):
    install(package(trusted, 1))
    with pytest.raises(BundleError, match="no version before the current one"):
        roll_back(NAME)
    install(package(trusted, 2))
    next((trusted.store / NAME).glob("1-*/llm.gguf")).unlink()
    with pytest.raises(BundleError, match="version 1 is damaged"):
        roll_back(NAME)
    assert versions(trusted) == [2, 1]


def test_removing_leaves_the_highest_number_alone(trusted):
    install(package(trusted, 1))
    install(package(trusted, 2))
    assert [one.version for one in remove(NAME, previous_only=True)] == [1]
    assert (versions(trusted), folders(trusted)) == ([2, None], 1)
    assert [one.version for one in remove(NAME)] == [2]
    assert list(snapshot(trusted.store)) == [NAME, f"{NAME}/state.json"]
    assert find_installed(NAME) is None
    for nothing in (NAME, "other", "../config", ""):
        with pytest.raises(BundleError, match="installed"):
            remove(nothing)
    with pytest.raises(BundleError, match="version 1 is older than version 2"):
        install(package(trusted, 1))
    install(package(trusted, 2))


def test_an_older_version_needs_an_option_of_its_own(trusted):
    install(package(trusted, 5))
    with pytest.raises(BundleError, match=r"version 4 is older than version 5.*rollback small.*--older"):
        install(package(trusted, 4))
    install(package(trusted, 4), older=True)
    assert versions(trusted) == [4, 5]
    with pytest.raises(BundleError, match="version 4 is older than version 5"):
        install(package(trusted, 4))
    with pytest.raises(BundleError, match="version 5 was installed here with other content"):
        install(package(trusted, 5, seed=99))
    install(package(trusted, 5))
    assert versions(trusted) == [5, 4]


@pytest.mark.parametrize(("key", "reason"), [(None, "it is not signed"), ("other", "a key that is not trusted here")])
def test_without_a_trusted_signature_nothing_is_installed_unless_asked_for(key, reason, trusted):
    unsigned = package(trusted, 9, key=key)
    with pytest.raises(BundleError, match=f"{reason}.*trusted-keys.*--unsigned"):
        install(unsigned)
    assert snapshot(trusted.store) == {}
    installed, _ = install(unsigned, unsigned=True)
    assert installed.signer is None
    bundle = read_bundle(find_installed(NAME))
    assert bundle.notice == f"{bundle.manifest.notice} {UNSIGNED}"
    # Whoever made it does not say how high a number has been.
    install(package(trusted, 1))
    assert versions(trusted) == [1, 9]


def test_a_signature_that_does_not_fit_is_refused_also_with_unsigned(trusted):
    made = parts(small_files(1), trusted.key)
    (trusted.folder / "p").write_bytes(replace(made, signature=parts_signature(trusted)).package)
    with pytest.raises(BundleError, match="the signature does not fit"):
        install(trusted.folder / "p", unsigned=True)
    damaged = parts(small_files(1), None).package
    (trusted.folder / "p").write_bytes(damaged.replace(small_files(1)["llm.gguf"], bytes(FILES["llm.gguf"])))
    with pytest.raises(BundleError, match=r"llm\.gguf is not what the index says"):
        install(trusted.folder / "p", unsigned=True)
    assert snapshot(trusted.store) == {}


def parts_signature(trusted: Trusted) -> bytes:
    return bytes(trusted.key.sign(b"something else", trusted_comment="small")) + b"\n"


def test_what_is_installed_for_all_users_needs_a_key_of_the_machines(trusted, tmp_path, monkeypatch):
    """A key that root's own settings or a user's trust does not sign for everybody."""
    for module in (store, installing):
        monkeypatch.setattr(module, "SYSTEM_STORE", trusted.store)
    for module in (trusted_keys, installing):
        monkeypatch.setattr(module, "SYSTEM_KEYS", tmp_path / "etc")
    with pytest.raises(BundleError, match="not trusted here: put the public key"):
        install(package(trusted, 1))
    shutil.copytree(tmp_path / "config/skingpt-edge/trusted-keys", tmp_path / "etc")
    install(package(trusted, 1))


def test_where_a_user_installs(monkeypatch, tmp_path):
    monkeypatch.delenv("SKINGPT_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert own_store() == tmp_path / "skingpt-edge" / "bundles"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert own_store() == SYSTEM_STORE
    monkeypatch.setenv("SKINGPT_STORE", "here")
    assert own_store() == Path.cwd() / "here"


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_every_user_can_read_and_only_the_owner_can_write(umask, trusted):
    before = os.umask(umask)
    try:
        install(package(trusted, 1))
    finally:
        os.umask(before)
    places = [trusted.store, *trusted.store.rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in places if path.is_dir()} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in places if path.is_file()} == {0o644}


@pytest.mark.parametrize("place", ["", NAME, f"{NAME}/state.json"])
def test_what_another_user_could_have_written_is_not_believed(place, trusted):
    install(package(trusted, 1))
    folder = find_installed(NAME)
    changed = trusted.store / place
    changed.chmod(changed.stat().st_mode | 0o020)
    for action in (lambda: find_bundle(NAME), lambda: read_bundle(folder), lambda: install(package(trusted, 2))):
        with pytest.raises(BundleError, match="another user"):
            action()


def test_a_record_that_does_not_fit_its_files_is_not_believed(trusted):
    install(package(trusted, 1))
    folder = find_installed(NAME)
    shutil.rmtree(folder)
    write_bundle(folder, small_files(2))
    with pytest.raises(BundleError, match="was changed after it was installed"):
        read_bundle(folder)
    install(package(trusted, 1, name="another"))
    (trusted.store / NAME / "state.json").write_text('{"format": 1')
    with pytest.raises(BundleError, match=r"state\.json: damaged: remove"):
        find_bundle(NAME)
    listed = run("skingpt", "bundles")
    assert listed.returncode == 4
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [["another", "1"], [NAME, "error:"]]


def test_what_the_whole_machine_has_is_found_but_not_changed_by_a_user(trusted, tmp_path, monkeypatch):
    install(package(trusted, 1))
    trusted.store.rename(tmp_path / "system")
    assert find_installed(NAME).parent.parent == tmp_path / "system"
    assert read_bundle(find_bundle(NAME)).installed.version == 1
    for action in (lambda: roll_back(NAME), lambda: remove(NAME)):
        with pytest.raises(BundleError, match=r"is installed in .*system, which this user's commands leave alone"):
            action()


def test_a_folder_that_looks_like_a_store_says_nothing_of_signatures(trusted, tmp_path):
    install(package(trusted, 1))
    copied = shutil.copytree(trusted.store, tmp_path / "stick")
    assert read_bundle(next((copied / NAME).glob("1-*"))).installed is None


def test_a_path_comes_before_a_name(trusted, tmp_path, monkeypatch):
    install(package(trusted, 1))
    monkeypatch.chdir(tmp_path)
    assert find_bundle(NAME) == find_installed(NAME)
    assert find_bundle(f"./{NAME}") == Path(NAME)
    write_bundle(tmp_path / NAME, small_files(2))
    assert find_bundle(NAME) == Path(NAME)
    assert find_bundle("nothing") == Path("nothing")
    with pytest.raises(BundleError, match="nothing: not a bundle: no such directory, and no bundle of this name"):
        read_bundle(find_bundle("nothing"))


def test_a_version_that_a_service_holds_stays_until_it_ends(trusted):
    install(package(trusted, 1))
    with holding(find_installed(NAME)):
        for version in (2, 3):
            install(package(trusted, version))
        assert folders(trusted) == 3
    assert run("skingpt", "bundles").returncode == 0
    assert folders(trusted) == 2


def test_two_commands_do_not_change_a_store_at_the_same_time(trusted):
    install(package(trusted, 1))
    descriptor = os.open(trusted.store, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for action in (lambda: install(package(trusted, 2)), lambda: remove(NAME)):
        with pytest.raises(BundleError, match="another command is changing it"):
            action()
    os.close(descriptor)
    assert versions(trusted) == [1, None]


def test_what_is_no_package_gets_one_clear_line(trusted, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_bytes(b"text" * 1000)
    lines = {"pipe": "not a file", "config": "not a file", "text": "not a package made by", "none": "No such file"}
    for name, line in lines.items():
        result = run("skingpt", "install", tmp_path / name, cwd=tmp_path)
        assert (result.returncode, result.stderr.count("\n"), line in result.stderr) == (4, 1, True), result.stderr
    assert snapshot(trusted.store) == {}


def test_the_commands_from_installing_to_removing(trusted, tmp_path, monkeypatch):
    """With the demonstration bundle, which can answer; the reports say where it comes from."""
    demo = {path.name: path.read_bytes() for path in default_bundle().iterdir()}
    demo = {"bundle.json": demo.pop("bundle.json"), **demo}
    for version, key in ((1, trusted.key), (2, None)):
        (tmp_path / f"{version}.skingpt").write_bytes(parts(demo, key, version=version, name="demo").package)
    installed = run("skingpt", "install", "1.skingpt", cwd=tmp_path)
    assert (installed.returncode, "signed by key" in installed.stdout) == (0, True), installed.stderr
    signed = report("demo", tmp_path)
    assert (signed["bundle"]["installed"]["version"], UNSIGNED in signed["notice"]) == (1, False)
    assert signed["bundle"]["installed"]["signed_by"]["file"] == "trusted.pub"

    result = run("skingpt", "install", "2.skingpt", "--unsigned", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "`skingpt rollback demo` goes back to it" in result.stdout
    found = report("demo", tmp_path)
    assert found["bundle"]["installed"] == {"name": "demo", "version": 2, "signed_by": None}
    assert found["notice"].endswith(UNSIGNED)
    assert found["turns"][0]["token_ids"] == signed["turns"][0]["token_ids"]
    page = html.unescape((tmp_path / "page.html").read_text())
    assert UNSIGNED in page
    assert "demo version 2, not signed by a trusted key" in page
    with SkinGPT.open("demo") as model:
        assert model.bundle.notice.endswith(UNSIGNED)
    assert UNSIGNED in run("skingpt", "info", "demo").stdout

    listed = json.loads(run("skingpt", "bundles", "--json").stdout)[str(trusted.store)]["demo"]
    assert [listed[which]["version"] for which in ("current", "previous")] == [2, 1]
    assert run("skingpt", "rollback", "demo").stdout.startswith("demo: back to version 1, signed by key")
    text = run("skingpt", "bundles").stdout
    assert [line.split()[1:3] for line in text.splitlines()] == [["1", "current"], ["2", "previous"]]
    assert report("demo", tmp_path)["notice"] == signed["notice"]
    assert run("skingpt", "remove", "demo").stdout == "removed demo, version 1\nremoved demo, version 2\n"
    assert run("skingpt", "bundles").stdout == "no bundle is installed: skingpt install NAME.skingpt\n"
    gone = run("skingpt", "diagnose", PHOTO, "--bundle", "demo")
    assert (gone.returncode, "no bundle of this name is installed" in gone.stderr) == (4, True)
    with pytest.raises(InputError):
        SkinGPT.open("")


def report(bundle: str, folder: Path) -> dict:
    page = ("--html", folder / "page.html")
    result = run("skingpt", "diagnose", PHOTO, "--bundle", bundle, "--json", "--max-new-tokens", "8", *page)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    jsonschema.validate(found, SCHEMA)
    return found


def test_a_bundle_that_is_a_folder_says_so(tmp_path):
    result = run("skingpt", "info", default_bundle())
    assert "no, it is a folder" in result.stdout
