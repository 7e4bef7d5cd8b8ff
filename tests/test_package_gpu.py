"""The package for NVIDIA's GPUs, on a machine without one: it works, and says what is missing where a GPU is asked for.

`make package GPU=cuda` or `GPU="cuda rtx"` makes it, which CI does not: it takes half an hour more.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from empty_debian import EmptyDebian, NoDebian
from support import run
from test_package import (
    DIAGNOSE,
    OUT,
    PICTURES,
    PYTHON_3_13,
    STAGE,
    SUITES,
    VERSION,
    as_root,
    listed,
    script,
    tokens,
    works,
)  # fmt: skip

LINUX = Path(script("fetch").__file__).parent
FLAVOURS = ("cuda", "cuda.rtx")


def stage(flavour: str) -> Path:
    return STAGE.with_name(f"{STAGE.name}+{flavour}")


def deb(flavour: str) -> Path:
    found = OUT / f"skingpt-edge_{VERSION}+{flavour}_amd64.deb"
    if not found.exists():
        pytest.skip(f'needs the package: make package GPU="{flavour.replace(".", " ")}"')
    return found


def test_the_libraries_are_those_that_vision_was_tested_with():
    tested = listed(LINUX.parents[1] / "constraints.txt")
    assert listed(LINUX / "rtx-wheels.txt").items() <= tested.items()


@pytest.mark.parametrize("gpu", ["rtx", "rtx cuda", "cuda cuda", "metal", "cuda metal"])
def test_a_flavour_that_does_not_exist_is_refused(gpu):
    made = subprocess.run(["make", "-C", LINUX, f"GPU={gpu}"], capture_output=True, text=True, check=False)
    assert made.returncode == 2
    assert f'GPU is "{gpu}"' in made.stderr


@pytest.mark.parametrize("asked", ["80", "90-virtual", "100a-real", "120-real", "75-real;80-real"])
def test_a_kind_of_card_that_could_not_be_told_later_is_refused(asked):
    environment = {**os.environ, "CUDA_ARCHITECTURES": f"75-real {asked}"}
    built = subprocess.run([LINUX / "cuda.sh"], env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 1
    assert f"CUDA_ARCHITECTURES has {asked}; known are" in built.stderr


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_library_of_it_runs_with_glibc_2_28(flavour):
    deb(flavour)
    check = script("check_libraries")
    files = list(check.elf_files(stage(flavour)))
    assert any(path.name == "libggml-cuda.so" for path in files)
    assert any("tensorrt" in path.name for path in files) == ("rtx" in flavour)
    assert list(check.faults(stage(flavour), files)) == []


@as_root
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_it_takes_the_other_packages_place_and_works_without_a_gpu(flavour, tmp_path):
    package, plain = deb(flavour), OUT / f"skingpt-edge_{VERSION}_amd64.deb"
    if not plain.exists():
        pytest.skip("needs the package without a GPU, too: make package")
    kept = os.environ.get("KEPT_DEBIANS")
    try:
        debian = EmptyDebian(tmp_path, SUITES[0], Path(kept) if kept else None)
    except NoDebian as error:
        pytest.skip(str(error))
    (debian.root / "srv/pictures").mkdir()
    for path, place in ((package, "srv"), (plain, "srv"), *((picture, "srv/pictures") for picture in PICTURES)):
        debian.put(path, place)
    before = debian.files(), debian.packages()
    expected = tokens(run("skingpt", "diagnose", *PICTURES, "--json").stdout)

    for name in (plain.name, package.name):
        found = debian.run(f"dpkg -i /srv/{name} >&2; {DIAGNOSE}")
        assert found.returncode == 0, found.stderr
        assert tokens(found.stdout) == expected

    vision = "NVIDIA's driver is not installed" if "rtx" in flavour else "ask for --vision-device cpu"
    for asked, said in (
        ("--device cuda --vision-device cpu", "llama.cpp finds no NVIDIA GPU, or no driver that is new enough"),
        ("--vision-device cuda", vision),
    ):
        refused = debian.run(f"{DIAGNOSE} {asked}")
        assert refused.returncode == 6
        assert said in refused.stderr

    back = debian.run(f"dpkg -i /srv/{plain.name} >&2; {DIAGNOSE}")
    assert back.returncode == 0, back.stderr
    assert tokens(back.stdout) == expected
    assert not list((debian.root / "usr/lib/skingpt-edge").rglob("libggml-cuda.so"))

    removed = debian.run("dpkg -P skingpt-edge")
    assert removed.returncode == 0, removed.stderr
    files = debian.files()
    left = {name for name in files.keys() | before[0].keys() if files.get(name) != before[0].get(name)}
    assert {name for name in left if not name.startswith(("root/.cache", "root/.local"))} == set()
    assert debian.packages() == before[1]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_its_licences_and_parts_are_listed(flavour):
    deb(flavour)
    doc = stage(flavour) / "share/doc/skingpt-edge"
    index, bom = (doc / "licenses/index.txt").read_text(), (doc / "sbom.cdx.json").read_text()
    wanted = ["nvidia-cublas", "nvidia-cuda-runtime", *(["tensorrt-rtx-cu13-libs"] if "rtx" in flavour else [])]
    for name in wanted:
        assert name in index
        assert f"pkg:pypi/{name}@" in bom
        assert any((doc / "licenses" / name).iterdir())
    assert "libggml-cuda.so" in bom
    assert "CUDA C++ Core Libraries" in index


@pytest.mark.skipif(not works(PYTHON_3_13), reason="needs a Python 3.13 of this machine: name it in PYTHON_3_13")
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_pip_installs_it_from_the_folder_of_wheels(flavour, tmp_path):
    deb(flavour)
    python = tmp_path / "venv/bin/python"
    subprocess.run([PYTHON_3_13, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    wheels = ["--no-index", "--find-links", OUT / f"wheels+{flavour}"]
    named = [f"skingpt-edge[cpu,serve{',rtx' * ('rtx' in flavour)}]", "nvidia-cublas", "nvidia-cuda-runtime"]
    without = {"PATH": str(tmp_path), "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    pip = [sys.executable, "-m", "pip", "--python", python, "install", *wheels, *named]
    installed = subprocess.run(pip, env=without, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr
    command = [python.with_name("skingpt"), "diagnose", PICTURES[0], "--device", "cuda", "--vision-device", "cpu"]
    refused = subprocess.run(command, env=without, capture_output=True, text=True, check=False)
    assert "llama.cpp finds no NVIDIA GPU, or no driver" in refused.stderr  # it was loaded, with cuBLAS


def test_it_compiles_vision_for_a_card_that_is_not_there(make_bundle):
    deb("cuda.rtx")
    build = "import sys; from pathlib import Path; from skingpt_edge.engines.tensorrt_rtx_plan import build_plan"
    graph = make_bundle("f16", "q8_0") / "vision_encoder.onnx"
    python = stage("cuda.rtx") / "lib/skingpt-edge/python/bin/python3.13"
    command = [python, "-I", "-c", f"{build}; print(len(build_plan(Path(sys.argv[1]), 'sm89')))", graph]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert int(built.stdout) > graph.with_name("vision_encoder.onnx.data").stat().st_size / 2
