"""Says how large the parts of a staged folder are, packed by themselves as in the .deb, and how large the archives."""

import argparse
import io
import tarfile
from collections import defaultdict
from pathlib import Path

SITE = "lib/skingpt-edge/python/lib/python3.13/site-packages"
LARGE = {
    "numpy", "onnxruntime", "pillow", "llama.cpp", "cryptography", "skingpt-edge", "llama.cpp for GPUs", "nvidia",
    "tensorrt-rtx",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", type=Path)
    parser.add_argument("archives", type=Path, nargs="*")
    given = parser.parse_args()
    parts: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(given.stage.rglob("*")):
        if path.is_file() and not path.is_symlink():
            parts[_part(path.relative_to(given.stage))].append(path)
    print(f"{'part':<24}{'MB':>8}{'packed':>8}")
    for name, files in sorted(parts.items(), key=lambda item: -sum(path.stat().st_size for path in item[1])):
        print(f"{name:<24}{sum(path.stat().st_size for path in files) / 1e6:>8.1f}{_packed(files) / 1e6:>8.1f}")
    for archive in given.archives:
        print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB")


def _part(path: Path) -> str:
    if not path.is_relative_to(SITE):
        return "Python" if path.is_relative_to("lib/skingpt-edge/python") else "documents and units"
    name = path.relative_to(SITE).parts[0].split(".")[0].split("-")[0].lower()
    names = {
        "pil": "pillow", "llama_cpp": "llama.cpp", "skingpt_edge": "skingpt-edge", "tensorrt_rtx_libs": "tensorrt-rtx",
        "tensorrt_rtx_bindings": "tensorrt-rtx",
    }  # fmt: skip
    if path.name == "libggml-cuda.so":
        return "llama.cpp for GPUs"
    if name == "skingpt_edge" and "demo" in path.parts:
        return "demonstration model"
    name = names.get(name, name)
    return name if name in LARGE else "other libraries"


def _packed(files: list[Path]) -> int:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:xz", preset=1) as tar:
        for path in files:
            tar.add(path, path.name)
    return len(target.getvalue())


if __name__ == "__main__":
    main()
