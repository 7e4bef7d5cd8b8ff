"""Bundles packed into one file, keys and signatures: ours are minisign's, and minisign's are ours."""

import json
import os
import shutil
import stat
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import minisign
import pytest
from skingpt_edge.benchmarks.tools.install_packages import parts, small_files, write_bundle
from skingpt_edge.engines.errors import BundleError, ExportError
from skingpt_edge.export.pack import make_index, pack_bundle, package_parts, version_of
from skingpt_edge.export.signing import make_keys, read_secret_key
from skingpt_edge.runtime.bundle import default_bundle, read_bundle
from skingpt_edge.runtime.install.package_format import INDEX, SIGNATURE, Index, member_header, read_index
from skingpt_edge.runtime.install.trusted_keys import check_signature
from skingpt_edge.runtime.manifest import FileEntry
from support import run

PASSWORD = "a pass phrase\n"
FILES = small_files(1)


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write_bundle(tmp_path / "small", FILES)


@pytest.fixture
def keys(tmp_path) -> Path:
    """The folder of a pair of keys without a password; `it.pub` can be trusted."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    make_keys(folder / "it.key", folder / "it.pub", password=None)
    return folder


def tool(*command: str | Path, said: str = "") -> subprocess.CompletedProcess[str]:
    if not shutil.which("minisign"):
        pytest.skip("needs minisign")
    return subprocess.run(["minisign", *map(str, command)], capture_output=True, text=True, input=said, check=False)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_secret_key_is_its_owners_alone_and_the_public_one_can_be_given_away(umask, tmp_path):
    before = os.umask(umask)
    try:
        result = run("skingpt-export", "keygen", "-o", tmp_path / "clinic.it", "--no-password")
    finally:
        os.umask(before)
    assert result.returncode == 0, result.stderr
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"clinic.it.key": 0o600, "clinic.it.pub": 0o644}


def test_a_key_is_never_replaced(tmp_path, keys):
    before = {path: path.read_bytes() for path in keys.iterdir()}
    result = run("skingpt-export", "keygen", "-o", keys / "it", "--no-password")
    assert result.returncode == 4
    assert "a key is never replaced" in result.stderr
    assert {path: path.read_bytes() for path in keys.iterdir()} == before
    (tmp_path / "link.pub").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ExportError, match="never replaced"):
        make_keys(tmp_path / "link.key", tmp_path / "link.pub", password=None)
    assert not (tmp_path / "link.key").exists()


def test_a_key_with_a_password_signs_with_it_alone(tmp_path, bundle):
    made = run("skingpt-export", "keygen", "-o", tmp_path / "it", input=PASSWORD * 2)
    assert made.returncode == 0, made.stderr
    pack = ("skingpt-export", "pack", bundle, "--key", tmp_path / "it.key", "-o", tmp_path / "p.skingpt")
    wrong = run(*pack, input="another\n")
    assert (wrong.returncode, "wrong password" in wrong.stderr) == (4, True)
    assert not (tmp_path / "p.skingpt").exists()
    assert run(*pack, input=PASSWORD).returncode == 0
    different = run("skingpt-export", "keygen", "-o", tmp_path / "other", input="one\ntwo\n")
    assert (different.returncode, "differ" in different.stderr) == (4, True)
    assert not (tmp_path / "other.key").exists()


def test_the_same_bundle_key_and_version_give_the_same_bytes(tmp_path, bundle, keys):
    packages = []
    for name in ("a", "b"):
        key = read_secret_key(keys / "it.key")
        packed = pack_bundle(bundle, tmp_path / name, key=key, version=3)
        packages.append(packed.path.read_bytes())
    assert packages[0] == packages[1]
    assert packages[0] != pack_bundle(bundle, tmp_path / "c", key=None, version=3).path.read_bytes()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_package_is_a_plain_tar_that_other_programs_read(tmp_path, bundle, keys):
    packed = pack_bundle(bundle, tmp_path / "p.skingpt", key=read_secret_key(keys / "it.key"))
    with tarfile.open(packed.path, "r:") as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == [INDEX, SIGNATURE, *packed.index.files]
        assert {tar.extractfile(m).read() for m in members[2:]} == set(FILES.values())
        assert {(m.type, m.mode, m.uid, m.gid, m.mtime, m.uname) for m in members} == {(b"0", 0o644, 0, 0, 0, "")}
    found = subprocess.run(["tar", "tf", packed.path], capture_output=True, text=True, check=True)
    assert (found.stdout.split(), found.stderr) == ([INDEX, SIGNATURE, *packed.index.files], "")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "xf", packed.path, "-C", tmp_path / "out"], check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}.items() >= FILES.items()


@pytest.mark.parametrize("size", [0, 1, 511, 512, 8**11 - 1, 8**11, 15_000_000_000, 1 << 40])
def test_a_header_says_to_pythons_tarfile_what_it_should(size):
    found = tarfile.TarInfo.frombuf(member_header("llm.gguf", size), "utf-8", "strict")
    assert (found.name, found.size, found.type, found.mode) == ("llm.gguf", size, tarfile.REGTYPE, 0o644)
    if size < 512:
        with tarfile.open(fileobj=BytesIO(member_header("llm.gguf", size)), mode="r:") as tar:
            assert tar.next().size == size


def test_minisign_verifies_what_we_sign(tmp_path, bundle, keys):
    packed = pack_bundle(bundle, tmp_path / "p.skingpt", key=read_secret_key(keys / "it.key"), version=12)
    subprocess.run(["tar", "xf", packed.path, "-C", tmp_path, INDEX, SIGNATURE], check=True)
    found = tool("-V", "-m", tmp_path / INDEX, "-p", keys / "it.pub")
    assert found.returncode == 0, found.stderr
    assert "Trusted comment: small version 12" in found.stdout
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes() + b" ")
    assert tool("-V", "-m", tmp_path / INDEX, "-p", keys / "it.pub").returncode == 1


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_a_key_of_minisigns_signs_here_and_one_of_ours_there(password, tmp_path, bundle, keys):
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    made = tool("-G", *(() if password else ("-W",)), "-p", theirs / "m.pub", "-s", theirs / "m.key", said=password * 2)
    assert made.returncode == 0, made.stderr
    pack = ("skingpt-export", "pack", bundle, "--key", theirs / "m.key", "-o", tmp_path / "p.skingpt", "--json")
    packed = run(*pack, input=password)
    assert packed.returncode == 0, packed.stderr
    assert json.loads(packed.stdout)["signed"] is True
    subprocess.run(["tar", "xf", tmp_path / "p.skingpt", "-C", tmp_path, INDEX, SIGNATURE], check=True)
    assert tool("-V", "-m", tmp_path / INDEX, "-p", theirs / "m.pub").returncode == 0
    # And minisign, with a key of ours.
    if password:
        (keys / "it.key").unlink()
        (keys / "it.pub").unlink()
        make_keys(keys / "it.key", keys / "it.pub", password=password.rstrip())
    assert tool("-S", "-m", tmp_path / INDEX, "-s", keys / "it.key", said=password).returncode == 0
    data, signature = (tmp_path / INDEX).read_bytes(), (tmp_path / SIGNATURE).read_bytes()
    signer = check_signature(data, signature, [keys])
    assert signer.file == "it.pub"
    assert f"minisign public key {signer.key}" in (keys / "it.pub").read_text()
    assert check_signature(data, signature, [theirs]) is None
    with pytest.raises(BundleError, match="does not fit"):
        check_signature(data + b" ", signature, [keys])


def test_a_signature_of_the_real_minisign_fits_a_package(tmp_path, bundle, keys):
    """Signed on another machine than packed: the index alone goes there, and the signature comes back."""
    index = make_index(read_bundle(bundle), "small", 4)
    (tmp_path / INDEX).write_bytes(index.to_json())
    assert tool("-S", "-m", tmp_path / INDEX, "-s", keys / "it.key", "-t", "by hand").returncode == 0
    package = b"".join(package_parts(bundle, index, (tmp_path / SIGNATURE).read_bytes()))
    (tmp_path / "p.skingpt").write_bytes(package)
    environment = {**os.environ, "SKINGPT_STORE": str(tmp_path / "store"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    trusted = tmp_path / "config" / "skingpt-edge" / "trusted-keys"
    trusted.mkdir(parents=True)
    shutil.copy(keys / "it.pub", trusted)
    installed = run("skingpt", "install", tmp_path / "p.skingpt", "--json", env=environment)
    assert installed.returncode == 0, installed.stderr
    assert json.loads(installed.stdout)["signer"]["file"] == "it.pub"


def test_a_bundle_that_was_changed_is_not_packed(tmp_path, bundle):
    (bundle / "llm.gguf").write_bytes(bytes(5000))
    result = run("skingpt-export", "pack", bundle, "-o", tmp_path / "p.skingpt")
    assert result.returncode == 4
    assert "llm.gguf: its content has changed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize("options", [("--name", "Small"), ("--name", "../x"), ("--name", ""), ("--version", "0")])
def test_a_name_or_version_that_no_package_can_have_is_refused(options, tmp_path, bundle):
    result = run("skingpt-export", "pack", bundle, *options, cwd=tmp_path)
    assert (result.returncode, "cannot be a package's" in result.stderr) == (4, True)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path, bundle):
    target = tmp_path / "p.skingpt"
    target.write_bytes(b"mine")
    result = run("skingpt-export", "pack", bundle, "-o", target)
    assert (result.returncode, target.read_bytes()) == (4, b"mine")
    result = run("skingpt-export", "pack", bundle, "-o", target, "--force")
    assert result.returncode == 0
    assert "NOT SIGNED" in result.stdout
    inside = run("skingpt-export", "pack", bundle, "-o", bundle / "p.skingpt")
    assert "would lie in the bundle" in inside.stderr


def test_a_version_is_when_the_bundle_was_made():
    created = read_bundle(default_bundle()).manifest.provenance.created
    assert str(version_of(read_bundle(default_bundle()))) == "".join(c for c in created[:19] if c.isdigit())


def test_what_is_written_is_read_again():
    index = Index("small", 7, {"bundle.json": FileEntry(3, "a" * 64), "x": FileEntry(1 << 40, "0" * 64)})
    assert read_index(index.to_json()) == index
    assert read_index(parts(FILES, None).package[512:].split(b"\0")[0]).name == "small"
    for wrong in (True, 1.0, "1"):
        with pytest.raises(BundleError, match="version"):
            read_index(json.dumps({**json.loads(index.to_json()), "version": wrong}).encode())


def test_the_library_refuses_what_is_no_key(tmp_path, keys):
    (keys / "other.pub").write_text("untrusted comment: none\nno key\n")
    signature = bytes(minisign.KeyPair.generate().secret_key.sign(b"data")) + b"\n"
    with pytest.raises(BundleError, match=r"other\.pub: not a public key"):
        check_signature(b"data", signature, [keys])
    (keys / "other.pub").unlink()
    (keys / "it.pub").chmod(0o666)
    with pytest.raises(BundleError, match=r"it\.pub: another user can write to it"):
        check_signature(b"data", signature, [keys])
