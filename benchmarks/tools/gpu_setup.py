"""The parts of `gpu.sh` that are logic: files in parts, libraries found and checked, packages that are missing.

`python benchmarks/tools/gpu_setup.py COMMAND …`. It needs the standard library alone, because it runs before anything
is installed.
"""

import argparse
import hashlib
import shutil
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

PART_BYTES = 60 << 20  # of one step's input
BLOCK = 1 << 20
NEEDED = {
    "numpy": "everything", "PIL": "photos", "simplejpeg": "photos", "onnxruntime": "vision", "diskcache": "llama_cpp",
    "jinja2": "llama_cpp", "torch": "bundles and the baseline", "transformers": "the baseline", "onnx": "bundles",
    "onnxscript": "bundles", "onnx_ir": "bundles", "gguf": "bundles", "sentencepiece": "bundles",
    "safetensors": "bundles", "tqdm": "bundles",
}  # fmt: skip
"""Modules, and what needs them."""
LIBRARIES = ("libllama.so", "libggml.so", "libggml-base.so", "libggml-cpu.so")
CUDA_LIBRARY, DYNAMIC = "libggml-cuda.so", b"libstdc++.so.6\0"


class SetupError(Exception):
    """What is wrong, and what to do."""


def split(file: Path, folder: Path, size: int = PART_BYTES) -> list[Path]:
    """Write a file as parts of at most `size` bytes into a folder, its SHA-256 beside them. Returns all of these."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    whole = hashlib.sha256()
    with file.open("rb") as source:
        while data := source.read(size):
            whole.update(data)
            written.append(folder / f"{file.name}.part-{len(written):03}")
            written[-1].write_bytes(data)
    digest = folder / f"{file.name}.sha256"
    digest.write_text(f"{whole.hexdigest()} {len(written)}\n")
    return [*written, digest]


def collect(folder: Path, store: Path) -> list[str]:
    """Copy what a folder holds into `store`, where earlier steps' files are, and join the files that came in parts.

    Returns the names of files that lack parts. Raises SetupError for one whose parts are not what was split.
    """
    store.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.resolve().parent != store.resolve():
            shutil.copy2(path, store / path.name)
    return [digest.stem for digest in sorted(store.glob("*.sha256")) if not _joined(digest)]


def _joined(digest: Path) -> bool:
    """Whether a file is whole now; its parts are removed then."""
    expected, count = digest.read_text().split()
    target = digest.with_suffix("")
    if target.exists():
        return True
    parts = [digest.with_name(f"{target.name}.part-{number:03}") for number in range(int(count))]
    if not all(part.exists() for part in parts):
        return False
    unfinished, found = digest.with_name(f"{target.name}.unfinished"), hashlib.sha256()
    with unfinished.open("wb") as whole:
        for part in parts:
            data = part.read_bytes()
            found.update(data)
            whole.write(data)
    if found.hexdigest() != expected:
        raise SetupError(f"{target.name}: its parts together are not the file that was split: give all parts again")
    unfinished.replace(target)
    for part in parts:
        part.unlink()
    return True


def link_package(root: Path, site: Path) -> None:
    """Make the tree at `root` the package `skingpt_edge` in a folder of packages, with the version that it has."""
    site.mkdir(parents=True, exist_ok=True)
    link = site / "skingpt_edge"
    link.unlink(missing_ok=True)
    link.symlink_to(root.resolve(), target_is_directory=True)
    text = (root / "CMakeLists.txt").read_text()
    version = text.partition("project(skingpt_edge VERSION ")[2].split()[0].rstrip(")")
    name_version(site, "skingpt-edge", version)
    try:
        distribution("onnxruntime")
    except PackageNotFoundError:  # builds for a GPU have packages of other names, and bundles record this one
        if find_spec("onnxruntime"):
            name_version(site, "onnxruntime", str(import_module("onnxruntime").__version__))


def name_version(site: Path, package: str, version: str) -> None:
    """What `importlib.metadata` needs to tell the version of a package that no installer put there."""
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def unpack_llama_cpp(sdist: Path, site: Path) -> None:
    """llama-cpp-python's own Python files from its sdist, for libraries that were built elsewhere."""
    version = sdist.name.removesuffix(".tar.gz").rpartition("-")[2]
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            _, _, inside = member.name.partition("/")
            if inside.startswith("llama_cpp/") and member.isfile():
                member.name = inside
                archive.extract(member, site, filter="data")
    name_version(site, "llama-cpp-python", version)


def cuda_folders() -> Iterator[Path]:
    """The folders of CUDA's and cuDNN's libraries that torch's packages brought."""
    spec = find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec else ():
        yield from sorted(path for path in Path(place).glob("*/lib") if any(path.glob("*.so*")))


def check_libraries(folder: Path, *, cuda: bool) -> None:
    """Raises SetupError if libraries of llama.cpp are missing, or would end the process when a model is loaded."""
    names = [*LIBRARIES, *([CUDA_LIBRARY] if cuda else [])]
    if missing := [name for name in names if not (folder / name).exists()]:
        raise SetupError(f"{folder}: no {', '.join(missing)}")
    # A second libstdc++ inside the library has streams of its own, which nobody has made ready.
    if cuda and DYNAMIC not in (folder / CUDA_LIBRARY).read_bytes():
        raise SetupError(
            f"{folder / CUDA_LIBRARY}: it holds a libstdc++ of its own and would end the process at the first model: "
            "link it with the system's libstdc++.so.6"
        )


def missing_packages() -> list[str]:
    return [f"{module} (for {use})" for module, use in NEEDED.items() if find_spec(module) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    sub = parser.add_subparsers(required=True, dest="command")
    for name, names in {
        "split": ("file", "folder"), "collect": ("folder", "store"), "link": ("root", "site"),
        "unpack-llama": ("sdist", "site"), "check-libraries": ("folder",), "cuda-folders": (), "packages": (),
    }.items():  # fmt: skip
        command = sub.add_parser(name)
        for argument in names:
            command.add_argument(argument, type=Path)
        if name == "check-libraries":
            command.add_argument("--cuda", action="store_true")
    given = parser.parse_args(arguments)
    try:
        _run(given)
    except (SetupError, OSError, tarfile.TarError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(given: argparse.Namespace) -> None:
    match given.command:
        case "split":
            print("\n".join(map(str, split(given.file, given.folder))))
        case "collect":
            for name in collect(given.folder, given.store):
                print(f"{name}: parts are still missing", file=sys.stderr)
        case "link":
            link_package(given.root, given.site)
        case "unpack-llama":
            unpack_llama_cpp(given.sdist, given.site)
        case "check-libraries":
            check_libraries(given.folder, cuda=given.cuda)
        case "cuda-folders":
            print(":".join(map(str, cuda_folders())))
        case "packages":
            if missing := missing_packages():
                raise SetupError(f"not installed: {', '.join(missing)}: put their wheels into FOLDER")


if __name__ == "__main__":
    sys.exit(main())
