"""Reads PyTorch checkpoint files. Code in them is never run. Tensors are memory-mapped and checked."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..engines.errors import ExportError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MOST_NAMED = 10
NOT_TENSORS = "cannot be read as a torch checkpoint: damaged, or it holds other things than plain tensors"


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` file, memory-mapped, taken out of a `model` entry if there is one.

    Raises ExportError if it is missing, a Git LFS pointer, or holds anything but plain tensors.
    """
    check_file(path)
    loaded = _torch_load(path)
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict):
        raise ExportError(f"{path}: holds {type(loaded).__name__}, expected tensors by name")
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ExportError(f"{path}: holds no tensors")
    return tensors


def check_file(path: Path) -> None:
    """Raises ExportError if this is not a file with content of its own."""
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ExportError(f"{path}: a Git LFS pointer, not the file itself: run `git lfs pull` where it came from")


def _torch_load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise ExportError(f"{path}: {NOT_TENSORS}") from error
    except Exception as error:  # unpickling a file that is none raises almost anything
        raise ExportError(f"{path}: {NOT_TENSORS}") from error
    try:  # files from before torch 1.6 cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExportError(f"{path}: {NOT_TENSORS}") from error


class LlamaFolder:
    """A Llama in Hugging Face layout: one tensor at a time from `.bin` or `.safetensors`, sharded or not."""

    def __init__(self, folder: Path) -> None:
        """Raises ExportError if a file is missing or not a plain Llama."""
        if not folder.is_dir():
            raise ExportError(f"{folder}: no such directory")
        self.folder = folder
        self.config = _read_json(folder / "config.json")
        check_file(folder / "tokenizer.model")
        self.files = _weight_files(folder)
        self._open = ExitStack()
        self._shards: dict[str, Any] = {}
        for path in self.files:
            check_file(path)
            shard = self._open_shard(path)
            self._shards.update(dict.fromkeys(shard.keys(), shard))

    def _open_shard(self, path: Path) -> Any:
        if path.suffix != ".safetensors":
            return load_state_dict(path)
        try:
            return self._open.enter_context(safe_open(path, framework="pt"))
        except SafetensorError as error:
            raise ExportError(f"{path}: cannot be read: {error}") from None

    def names(self) -> set[str]:
        return set(self._shards)

    def shape(self, name: str) -> tuple[int, ...]:
        shard = self._shards[name]
        found = shard[name].shape if isinstance(shard, Mapping) else shard.get_slice(name).get_shape()
        return tuple(found)

    def tensor(self, name: str) -> Tensor:
        """One tensor in its stored type."""
        shard = self._shards[name]
        tensor: Tensor = shard[name] if isinstance(shard, Mapping) else shard.get_tensor(name)
        return tensor

    def close(self) -> None:
        self._open.close()
        self._shards.clear()


def _weight_files(folder: Path) -> list[Path]:
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{suffix}.index.json"
        if index.is_file():
            check_file(index)
            weight_map = _read_json(index).get("weight_map")
            names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
            if not names or any(not isinstance(name, str) or "/" in name for name in names):
                raise ExportError(f"{index}: its weight_map names no files of this folder")
            return [folder / name for name in sorted(names)]
        if (folder / f"{stem}{suffix}").is_file():
            return [folder / f"{stem}{suffix}"]
    raise ExportError(f"{folder}: has neither model*.safetensors nor pytorch_model*.bin")


def _read_json(path: Path) -> dict[str, Any]:
    check_file(path)
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ExportError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ExportError(f"{path}: expected a JSON object")
    return data


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ExportError naming tensors that are missing or have another shape."""
    refuse(
        f"{name}: missing" if name not in found else f"{name}: shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name) != shape
    )


def not_finite(name: str, tensor: Tensor) -> Iterator[str]:
    """A sentence if the tensor holds NaN or infinity."""
    if not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        yield f"{name}: {count} of {tensor.numel()} values are NaN or infinite"


def refuse(problems: Iterable[str]) -> None:
    """Raises ExportError naming up to ten problems, if there is one."""
    found = list(problems)
    if found:
        more = f"\n  and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        lines = "\n  ".join(found[:MOST_NAMED])
        raise ExportError(f"the checkpoints cannot be used:\n  {lines}{more}")
