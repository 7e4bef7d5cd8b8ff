"""Lays out the package's folder: our own Python, the libraries, SkinGPT Edge, and what the system is told of it.

bin/skingpt                      a link to the launcher
lib/skingpt-edge/skingpt         the launcher
lib/skingpt-edge/python/         Python, the libraries and SkinGPT Edge
lib/systemd/                     the units of packaging/systemd
share/doc/skingpt-edge/          the pages of docs/ for who installs and runs it, and the lists of what was compiled

packaging/papers adds the rest of share/.
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = "lib/skingpt-edge/python"
STDLIB = f"{PYTHON}/lib/python3.13"
# What the commands import, of the wheels that are there.
LIBRARIES = [
    "anyio", "cffi", "click", "cryptography", "h11", "idna", "llama_cpp_python", "msgspec", "numpy", "onnxruntime",
    "pillow", "prometheus_client", "py_minisign", "simplejpeg", "skingpt_edge", "starlette", "typing_extensions",
    "uvicorn",
]  # fmt: skip
GPU_LIBRARIES = {
    "cuda": ["nvidia_cublas", "nvidia_cuda_runtime"],
    "rtx": ["tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu13_libs"],
}
NOT_PYTHON = [
    "bin/*-config", "bin/idle*", "bin/pydoc*", "include", "share", "lib/*.a", "lib/pkgconfig",
    *(f"lib/python3.13/{name}" for name in (
        "config-3.13-*", "__phello__", "_pyrepl", "curses", "dbm", "ensurepip", "idlelib", "pydoc.py", "pydoc_data",
        "sqlite3", "test", "tkinter", "turtle.py", "turtledemo", "unittest", "venv", "xmlrpc",
    )),
]  # fmt: skip
NOT_LIBRARIES = [
    # Tests, and what compilers and type checkers read.
    "**/tests", "**/*.pyi", "**/*.pxd", "**/*.pyx", "**/*.h", "**/*.a", "numpy/_core/_*tests.*.so", "numpy/f2py",
    "numpy/_pyinstaller", "numpy/typing/mypy_plugin.py",
    # Of ONNX Runtime everything but running a graph.
    *(f"onnxruntime/{name}" for name in (
        "backend", "capi/libonnxruntime.so*", "datasets", "quantization", "tools", "transformers",
    )),
    # Of Pillow fonts, AVIF and windows: the runtime opens JPEG, PNG and WebP.
    "PIL/_avif.*", "PIL/_imagingft.*", "PIL/_imagingtk.*",
    *(f"pillow.libs/lib{name}*" for name in ("avif", "brotli", "freetype", "harfbuzz", "png16")),
    # Of llama-cpp-python its upper half, which needs a template engine and a database, and is not used.
    *(f"llama_cpp/{name}" for name in (
        "_ggml.py", "_internals.py", "_logger.py", "_utils.py", "llama.py", "llama_[!c]*.py", "llama_c[!p]*.py",
        "llava_cpp.py", "mtmd*.py", "server",
    )),
    "skingpt_edge/export", "skingpt_edge/benchmarks",
    # Of NVIDIA's libraries what is compiled with, and one that nothing here calls.
    "nvidia/cu13/include", "nvidia/cu13/lib/cmake", "nvidia/cu13/lib/libnvblas.so*", "nvidia/cu13/.metadata",
    # True only of the whole wheels, or of the folder that they were installed from.
    "bin", *(f"*.dist-info/{name}" for name in (
        "RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "entry_points.txt",
    )),
]  # fmt: skip
LLAMA = '"""The functions of llama.h; the package has no more of llama-cpp-python."""\n\nfrom .llama_cpp import *\n\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", type=Path, help="the Python that python.sh built")
    parser.add_argument("wheels", type=Path, help="the folder of wheels")
    parser.add_argument("target", type=Path)
    parser.add_argument("--gpu", nargs="+", default=[], choices=GPU_LIBRARIES, help="with these libraries, too")
    given = parser.parse_args()
    target: Path = given.target
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(given.python, target / PYTHON, symlinks=True)
    _remove(target / PYTHON, NOT_PYTHON)
    _forget_build_folders(target / STDLIB, given.python.parent)
    libraries = [*LIBRARIES, *(library for name in given.gpu for library in GPU_LIBRARIES[name])]
    _install(given.wheels, libraries, target / STDLIB / "site-packages")
    _compile(target / PYTHON)
    _other_files(target)
    _set_modes(target)


def _remove(folder: Path, patterns: list[str]) -> None:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.exists() or path.is_symlink():
                path.unlink()


def _forget_build_folders(stdlib: Path, build: Path) -> None:
    for path in stdlib.glob("_sysconfigdata_*.py"):
        path.write_text(path.read_text().replace(str(build), "/build"))


def _install(wheels: Path, libraries: list[str], target: Path) -> None:
    files = []
    for name in libraries:
        found = sorted(wheels.glob(f"{name}-*.whl"))
        if len(found) != 1:
            sys.exit(f"{wheels} has {len(found)} wheels of {name}, expected one")
        files += found
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    for_package = ["--python-version=3.13", "--only-binary=:all:", *(f"--platform={tag}" for tag in _tags(files))]
    command = [*pip, *for_package, "--no-compile", f"--target={target}", *map(str, files)]
    if subprocess.run(command, check=False).returncode:
        sys.exit("the wheels could not be installed")
    _remove(target, NOT_LIBRARIES)
    if not list(target.glob("llama_cpp/lib/libggml-cpu-*.so")):
        sys.exit("the wheel of llama-cpp-python has no code for any processor in it")
    start = target / "llama_cpp/__init__.py"
    (version,) = re.findall(r"^__version__ = .*$", start.read_text(), re.M)
    start.write_text(f"{LLAMA}{version}\n")


def _tags(wheels: list[Path]) -> list[str]:
    return sorted({tag for wheel in wheels for tag in wheel.stem.split("-")[-1].split(".")})


def _compile(python: Path) -> None:
    """Bytecode that Python takes as it is: starting is faster, and nothing is written when root runs it."""
    _remove(python, ["**/__pycache__"])
    options = ["-q", "-j0", "--invalidation-mode=unchecked-hash", "-s", str(python), "-p", "/"]
    command = [str(python / "bin/python3.13"), "-I", "-B", "-m", "compileall", *options, str(python / "lib")]
    if subprocess.run(command, check=False).returncode:
        sys.exit("the bytecode could not be made")


def _other_files(target: Path) -> None:
    shutil.copy(HERE / "skingpt", target / "lib/skingpt-edge/skingpt")
    (target / "bin").mkdir()
    (target / "bin/skingpt").symlink_to("../lib/skingpt-edge/skingpt")
    shutil.copytree(HERE.parent / "systemd", target / "lib/systemd")
    doc = target / "share/doc/skingpt-edge"
    doc.mkdir(parents=True)
    for name in ("install", "service", "embed", "install-bundles", "kiosk", "photos", "gpu", "tensorrt-rtx"):
        if (page := ROOT / "docs" / f"{name}.md").exists():
            shutil.copy(page, doc)
    shutil.copy(ROOT / "LICENSE", doc / "copyright")
    (doc / "sources").mkdir()
    for name in ("debian-sources", "sdists"):
        shutil.copy(HERE / f"{name}.txt", doc / "sources")


def _set_modes(target: Path) -> None:
    """The same on every machine, whatever its umask."""
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            runs = path.is_dir() or path.name == "skingpt" or path.parent.name == "bin" or ".so" in path.suffixes
            path.chmod(0o755 if runs else 0o644)


if __name__ == "__main__":
    main()
