"""The package for Linux: what it is made of, and its life on a machine that has nothing.

`make package` makes it. SUITES names the Debians that it is tried in, KEPT_DEBIANS a folder that keeps them.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from empty_debian import EmptyDebian, NoDebian
from support import ROOT, run

LINUX = ROOT / "packaging" / "linux"
PICTURES = sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))
VERSION = re.search(r"project\(skingpt_edge VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
OUT = Path(os.environ.get("OUT", ROOT / "out"))
STAGE = Path(os.environ.get("PACKAGE_BUILD") or OUT / "package-build") / "stage"
DEB = OUT / f"skingpt-edge_{VERSION}_amd64.deb"
TAR = OUT / f"skingpt-edge-{VERSION}-linux-x86_64.tar.gz"
PYTHON_3_13 = os.environ.get("PYTHON_3_13", "python3.13")
SUITES = os.environ.get("SUITES", "bullseye").split()

built = pytest.mark.skipif(not DEB.exists(), reason="needs the package: make package")
MISSING = [name for name in ("mmdebstrap", "curl", "ip") if not shutil.which(name)]
as_root = pytest.mark.skipif(
    os.geteuid() != 0 or bool(MISSING), reason=f"needs root, and for an empty Debian {', '.join(MISSING)}"
)


def script(name: str) -> ModuleType:
    """A program of packaging/linux, as a module."""
    spec = importlib.util.spec_from_file_location(name, LINUX / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def listed(path: Path) -> dict[str, str]:
    """Names and versions of a list of requirements; names as pip compares them."""
    pairs = re.findall(r"^([\w.-]+)==([^\s]+)", path.read_text(), re.M)
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("name", ["wheels", "sdists"])
def test_the_package_has_the_versions_that_were_tested(name):
    tested, packaged = listed(ROOT / "constraints.txt"), listed(LINUX / f"{name}.txt")
    assert packaged
    assert {name: tested.get(name) for name in packaged} == packaged


def test_a_library_that_needs_a_newer_system_is_found(tmp_path):
    """This machine's own libraries are newer than what the package may need."""
    import numpy._core._multiarray_umath as library

    check = script("check_libraries")
    shutil.copy(library.__file__, tmp_path)
    (found,) = check.elf_files(tmp_path)
    assert any("libscipy_openblas" in line and "not in the package" in line for line in check.faults(tmp_path, [found]))
    shutil.copy(shutil.which("sh"), tmp_path / "sh")
    newest = max(
        (check._number(v) for v in check.needs(tmp_path / "sh").versions if v.startswith("GLIBC_")), default=(0,)
    )
    if newest <= (2, 28):
        pytest.skip("this machine's shell needs no newer glibc")
    assert any("newer than 2.28" in line for line in check.faults(tmp_path, [tmp_path / "sh"]))


def test_the_same_folder_gives_the_same_archives(tmp_path):
    """Whenever, wherever and by whomever they are made; and other ones for another folder."""
    hashes = []
    for name, umask in (("one", 0o022), ("two", 0o077), ("other", 0o022)):
        stage = tmp_path / name / "stage"
        shutil.copytree(LINUX.parent / "systemd", stage / "lib/systemd", copy_function=shutil.copyfile)
        (stage / "bin").mkdir()
        shutil.copyfile(LINUX / "skingpt", stage / "lib/skingpt")
        (stage / "bin/skingpt").symlink_to("../lib/skingpt")
        (stage / "lib/large").write_bytes(bytes(range(256)) * 20_000 + name.encode() * (name == "other"))
        for path in stage.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.name == "skingpt" else 0o644)
        subprocess.run(
            [sys.executable, LINUX / "archive.py", stage, tmp_path / name, "--version", "1.2"],
            check=True, umask=umask, env={**os.environ, "SOURCE_DATE_EPOCH": "1764201600"}, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        archives = (
            tmp_path / name / "skingpt-edge_1.2_amd64.deb",
            tmp_path / name / "skingpt-edge-1.2-linux-x86_64.tar.gz",
        )
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in archives])
    assert hashes[0] == hashes[1]
    assert not set(hashes[0]) & set(hashes[2])


@built
def test_every_library_of_the_package_runs_with_glibc_2_28():
    check = script("check_libraries")
    files = list(check.elf_files(STAGE))
    assert len(files) > 50
    assert list(check.faults(STAGE, files)) == []


@built
def test_nothing_of_export_torch_or_this_machine_is_in_it():
    names = {str(path.relative_to(STAGE)) for path in STAGE.rglob("*")}
    assert not [name for name in names if re.search(r"torch|skingpt_edge/(export|benchmarks)|/tests?/|/pip(/|-)", name)]
    place = str(ROOT).encode()
    assert not [path for path in STAGE.rglob("*") if path.is_file() and place in path.read_bytes()]


def tokens(output: str) -> list[list[list[int]]]:
    """Of each turn of each picture."""
    reports = [json.loads(line) for line in output.splitlines()]
    assert len(reports) == len(PICTURES)
    return [[turn["token_ids"] for turn in report["turns"]] for report in reports]


@pytest.fixture(scope="module")
def expected() -> list[list[list[int]]]:
    """What is generated here, where llama.cpp was compiled for this machine."""
    found = run("skingpt", "diagnose", *PICTURES, "--json")
    assert found.returncode == 0, found.stderr
    return tokens(found.stdout)


@pytest.fixture(params=SUITES)
def debian(request, tmp_path) -> EmptyDebian:
    kept = os.environ.get("KEPT_DEBIANS")
    try:
        machine = EmptyDebian(tmp_path, request.param, Path(kept) if kept else None)
    except NoDebian as error:
        pytest.skip(str(error))
    (machine.root / "srv/pictures").mkdir()
    for picture in PICTURES:
        machine.put(picture, "srv/pictures")
    return machine


PROCESSORS = {
    "sse42": "Nehalem",
    "sandybridge": "SandyBridge",
    "ivybridge": "IvyBridge",
    "piledriver": "Opteron_G5",
    "haswell": "Haswell",
}
"""By a kind of code: a processor of QEMU's whose best code it is. QEMU has none with AVX-512 or AVX-VNNI."""

NEEDED = {
    "sse42": {"sse4_2"},
    "sandybridge": {"avx"},
    "ivybridge": {"avx", "f16c"},
    "piledriver": {"avx", "f16c", "fma"},
    "haswell": {"avx2", "bmi2", "f16c", "fma"},
    "skylakex": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "cannonlake": {"avx512bw", "avx512vbmi"},
    "cascadelake": {"avx512bw", "avx512_vnni"},
    "icelake": {"avx512bw", "avx512_vnni", "avx512vbmi"},
    "cooperlake": {"avx512bw", "avx512_vnni", "avx512_bf16"},
    "zen4": {"avx512bw", "avx512_vnni", "avx512vbmi", "avx512_bf16"},
    "alderlake": {"avx2", "avx_vnni"},
}
"""By a kind of code: the flags in /proc/cpuinfo without which it cannot run; in brief, as each implies others."""


def code_in_the_package() -> list[str]:
    folder = next(STAGE.glob("lib/skingpt-edge/**/llama_cpp/lib"), None)
    return sorted(p.stem.removeprefix("libggml-cpu-") for p in folder.glob("libggml-cpu-*.so")) if folder else []


def report_of(stage: Path, *before: str) -> dict:
    """Of the first picture, by a staged package."""
    start = "import sys; from skingpt_edge.command import skingpt; sys.exit(skingpt())"
    python = stage / "lib/skingpt-edge/python/bin/python3.13"
    command = [*before, python, "-I", "-c", start, "diagnose", PICTURES[0], "--json"]
    # A machine may tell NumPy's OpenBLAS which processor it has; an emulated one is another.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def says_the_same(report: dict, code: str, expected: list[list[list[int]]]) -> bool:
    assert report["engines"]["language_model"]["details"]["cpu_code"] == code
    return [turn["token_ids"] for turn in report["turns"]] == expected[0]


@built
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs QEMU's user emulation")
@pytest.mark.parametrize("code", PROCESSORS)
def test_the_best_code_for_a_processor_runs_and_generates_the_same(code, expected):
    if code not in code_in_the_package():
        pytest.skip(f"the package was made without {code}")
    assert says_the_same(report_of(STAGE, "qemu-x86_64", "-cpu", PROCESSORS[code]), code, expected)


@built
@pytest.mark.parametrize("code", NEEDED)
def test_each_code_that_this_machine_can_run_generates_the_same(code, expected, tmp_path):
    """Where it is the only one in the package: by itself the best one is taken."""
    if code not in code_in_the_package():
        pytest.skip(f"the package was made without {code}")
    flags = re.search(r"(?m)^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text())[1].split()
    if missing := NEEDED[code] - set(flags):
        pytest.skip(f"this machine's processor lacks {', '.join(sorted(missing))}")
    stage = tmp_path / "stage"
    shutil.copytree(STAGE, stage, symlinks=True)
    for library in stage.glob("lib/skingpt-edge/**/llama_cpp/lib/libggml-cpu-*.so"):
        if library.stem != f"libggml-cpu-{code}":
            library.unlink()
    assert says_the_same(report_of(stage), code, expected)


def works(python: str) -> bool:
    """With sqlite3, which the package's own Python lacks and all of llama-cpp-python imports."""
    return (
        shutil.which(python) is not None
        and not subprocess.run([python, "-c", "import sqlite3"], check=False).returncode
    )


@built
@pytest.mark.skipif(not works(PYTHON_3_13), reason="needs a Python 3.13 of this machine: name it in PYTHON_3_13")
def test_pip_installs_from_the_folder_of_wheels_without_network_and_compiler(tmp_path, expected):
    python = tmp_path / "venv/bin/python"
    subprocess.run([PYTHON_3_13, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--find-links", OUT / "wheels"]
    without = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    installed = subprocess.run(
        [*pip, "skingpt-edge[cpu,serve]"], env=without, capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stderr
    command = [python.with_name("skingpt"), "diagnose", *PICTURES, "--json"]
    found = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert tokens(found.stdout) == expected


DIAGNOSE = "skingpt diagnose /srv/pictures/*.jpg --json"
# The service is started as its unit does, by a user without rights, with the folders that systemd would make. This
# machine's curl asks it.
ASK = """
ip link set lo up
start=$(sed -n 's/^ExecStart=//p' "$ROOT/usr/lib/systemd/system/skingpt-edge.service")
install -d -m 700 -o 65534 -g 65534 "$ROOT/var/lib/skingpt-edge" "$ROOT/var/cache/skingpt-edge"
export STATE_DIRECTORY=/var/lib/skingpt-edge XDG_CACHE_HOME=/var/cache/skingpt-edge OPTIONS=
eval "chroot --userspec=65534:65534 $ROOT $start >&2 &"
service=http://127.0.0.1:8077
curl --silent --show-error --fail --noproxy '*' --retry 60 --retry-connrefused --retry-delay 1 $service/readyz >&2
for picture in "$ROOT"/srv/pictures/*.jpg; do
    printf 'header = "Authorization: Bearer %s"\n' "$(cat "$ROOT/var/lib/skingpt-edge/token")" |
        curl --config - --silent --show-error --fail-with-body --noproxy '*' -H 'Content-Type: image/jpeg' \
            -H 'Accept: application/json' --data-binary "@$picture" $service/v1/reports
    echo
done
kill $!
wait $!
"""


@built
@as_root
def test_a_machine_with_nothing_on_it_gets_the_package_and_is_rid_of_it(debian, expected, tmp_path):
    """Installed, used, served, upgraded, taken back and removed, without a network; nothing of it is left."""
    newer = f"{VERSION}+1"
    archive = [sys.executable, str(LINUX / "archive.py"), str(STAGE), str(tmp_path), "--version", newer, "--quick-deb"]
    subprocess.run(archive, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})
    for path in (DEB, tmp_path / f"skingpt-edge_{newer}_amd64.deb"):
        debian.put(path, "srv")
    before = debian.files(), debian.packages()

    first = debian.run(f"dpkg -i /srv/{DEB.name} >&2; {DIAGNOSE}")
    assert first.returncode == 0, first.stderr
    assert tokens(first.stdout) == expected
    engine = json.loads(first.stdout.splitlines()[0])["engines"]["language_model"]
    assert engine["details"]["cpu_code"] in [path.stem.split("-")[-1] for path in STAGE.rglob("libggml-cpu-*.so")]

    served = debian.run_beside(ASK)
    assert served.returncode == 0, served.stderr
    assert tokens(served.stdout) == expected

    for name, version in ((f"skingpt-edge_{newer}_amd64.deb", newer), (DEB.name, VERSION)):
        changed = debian.run(f"dpkg -i /srv/{name} >&2; dpkg-query -W -f '${{Version}}\\n' skingpt-edge; {DIAGNOSE}")
        assert changed.returncode == 0, changed.stderr
        said, _, output = changed.stdout.partition("\n")
        assert (said, tokens(output)) == (version, expected)

    removed = debian.run("dpkg -P skingpt-edge")
    assert removed.returncode == 0, removed.stderr
    files, packages = debian.files(), debian.packages()
    left = {name for name in files.keys() | before[0].keys() if files.get(name) != before[0].get(name)}
    # What the user who ran it keeps, as the README says: the cache, and the service's token.
    assert {name for name in left if not name.startswith(("root/.cache", "root/.local"))} == set()
    assert packages == before[1]


@built
@as_root
def test_it_runs_from_a_folder_of_any_user_beside_another_python(debian, expected):
    """Unpacked without root, started through a link, with settings for another Python that does not work."""
    home = debian.root / "home/user"
    home.mkdir()
    subprocess.run(["tar", "-C", str(home), "-xf", str(TAR)], check=True)
    for path in [home, *home.rglob("*")]:
        os.chown(path, 1000, 1000, follow_symlinks=False)
    wrong = {
        "PYTHONHOME": "/nowhere",
        "PYTHONPATH": "/home/user/else",
        "PYTHONSTARTUP": "/nowhere",
        "PYTHONNOSUCH": "1",
    }
    (home / "else/numpy").mkdir(parents=True)
    (home / "else/numpy/__init__.py").write_text("raise SystemExit('the wrong numpy')")
    files = debian.files()
    link = f"ln -s /home/user/{TAR.name.removesuffix('-linux-x86_64.tar.gz')}/bin/skingpt my"
    found = debian.run(
        f"cd /tmp; {link}; ./my {DIAGNOSE.removeprefix('skingpt ')}", user=1000, HOME="/home/user", **wrong
    )
    assert found.returncode == 0, found.stderr
    assert tokens(found.stdout) == expected
    changed = {name for name, facts in debian.files().items() if files.get(name) != facts}
    assert all(name.startswith("home/user/.cache") for name in changed), changed
