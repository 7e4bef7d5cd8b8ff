"""What a machine with a GPU and no network is given: files in parts, libraries, packages."""

import io
import subprocess
import sys
import tarfile

import pytest
from skingpt_edge.benchmarks.tools import gpu_setup
from skingpt_edge.benchmarks.tools.gpu_setup import SetupError, check_libraries, collect, link_package, split
from support import ROOT


def test_a_file_comes_through_in_parts_and_loads(tmp_path):
    wheel, whole = tmp_path / "a.whl", bytes(range(256)) * 10
    wheel.write_bytes(whole)
    written = split(wheel, tmp_path / "parts", size=1000)
    assert [path.name for path in written] == ["a.whl.part-000", "a.whl.part-001", "a.whl.part-002", "a.whl.sha256"]
    assert max(path.stat().st_size for path in written) <= 1000
    store = tmp_path / "store"
    for number, load in enumerate((written[:1], written[2:], written[1:2])):
        folder = tmp_path / f"load-{number}"
        folder.mkdir()
        for path in load:
            path.rename(folder / path.name)
        missing = collect(folder, store)
        assert missing == (["a.whl"] if number == 1 else [])
    assert (store / "a.whl").read_bytes() == whole
    assert not list(store.glob("*.part-*"))
    assert collect(folder, store) == []  # the same load again changes nothing


def test_a_damaged_part_is_no_file(tmp_path):
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"x" * 2500)
    first, *_ = split(wheel, tmp_path / "parts", size=1000)
    first.write_bytes(b"y" * 1000)
    with pytest.raises(SetupError, match=r"a\.whl: its parts together are not the file"):
        collect(tmp_path / "parts", tmp_path / "store")
    assert not (tmp_path / "store/a.whl").exists()


def test_libraries_that_would_end_the_process_are_refused(tmp_path):
    with pytest.raises(SetupError, match=r"no libllama\.so, libggml\.so"):
        check_libraries(tmp_path, cuda=False)
    for name in gpu_setup.LIBRARIES:
        (tmp_path / name).write_bytes(b"")
    check_libraries(tmp_path, cuda=False)
    with pytest.raises(SetupError, match=r"no libggml-cuda\.so"):
        check_libraries(tmp_path, cuda=True)
    cuda = tmp_path / "libggml-cuda.so"
    cuda.write_bytes(b"\0libc.so.6\0std::ostream\0")
    with pytest.raises(SetupError, match=r"holds a libstdc\+\+ of its own"):
        check_libraries(tmp_path, cuda=True)
    cuda.write_bytes(b"\0libstdc++.so.6\0libc.so.6\0")
    check_libraries(tmp_path, cuda=True)


def test_the_tree_becomes_a_package_with_its_version(tmp_path):
    link_package(ROOT, tmp_path)
    code = "import skingpt_edge, importlib.metadata as m; print(skingpt_edge.__path__[0], m.version('skingpt-edge'))"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert found == [str(tmp_path / "skingpt_edge"), found[1]]
    assert f"VERSION {found[1]}" in (ROOT / "CMakeLists.txt").read_text()


def test_only_the_python_files_of_llama_cpp_are_unpacked(tmp_path):
    sdist = tmp_path / "llama_cpp_python-0.3.36.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in ("llama_cpp/__init__.py", "llama_cpp/server/app.py", "vendor/llama.cpp/CMakeLists.txt"):
            member = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"#"))
    gpu_setup.unpack_llama_cpp(sdist, tmp_path / "site")
    found = sorted(
        str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*") if path.is_file()
    )
    assert found == [
        "llama_cpp/__init__.py", "llama_cpp/server/app.py", "llama_cpp_python-0.3.36.dist-info/METADATA",
    ]  # fmt: skip


def test_cuda_folders_are_those_of_torchs_packages(tmp_path, monkeypatch):
    for name in ("nvidia/cu13/lib/libcublas.so.13", "nvidia/cudnn/lib/libcudnn.so.9", "nvidia/cu13/include/cublas.h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(gpu_setup.cuda_folders()) == [tmp_path / "nvidia/cu13/lib", tmp_path / "nvidia/cudnn/lib"]


def test_packages_that_are_missing_are_named(monkeypatch, capsys):
    monkeypatch.setattr(gpu_setup, "NEEDED", {"no_such_module": "this test"})
    assert gpu_setup.main(["packages"]) == 2
    assert "not installed: no_such_module (for this test)" in capsys.readouterr().err
