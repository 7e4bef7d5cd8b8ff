"""Which weights llama.cpp lays out anew for this processor while it loads them.

Left to itself, a build with AMX lays out for the AMX tiles all that it can. It can be kept from that, but is then
kept from every other layout, too. So for such a build the layout of each tensor is said here.
"""

import ctypes
import re
from collections import defaultdict
from typing import Any

from .errors import EngineUnavailable
from .gguf_header import GgufHeader, ggml_library

TYPES = {
    # AMX takes Q6_K, too, but prompts are faster with plain Q6_K, and single tokens as fast.
    "AMX": ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "IQ4_XS"),
    "CPU_REPACK": ("Q4_0", "Q4_K", "IQ4_NL"),
}
"""The types of weights to give each layout: for the tiles of AMX, and interleaved for AVX2."""
ROWS = 32  # what either layout needs the number of a matrix's rows to be a multiple of
CPU = 0  # ggml_backend_dev_type


class Override(ctypes.Structure):
    """llama.cpp's `llama_model_tensor_buft_override`: a layout for the tensors whose names match a pattern."""

    _fields_ = (("pattern", ctypes.c_char_p), ("layout", ctypes.c_void_p))


def overrides(lib: Any, header: GgufHeader, *, amx: bool) -> "ctypes.Array[Override]":
    """What `tensor_buft_overrides` takes, with the end mark; it has to live as long as the model.

    Raises EngineUnavailable if AMX is asked for and the system does not let llama.cpp use it.
    """
    layouts = _layouts()
    if amx and "AMX" not in layouts:
        raise EngineUnavailable("AMX was asked for, but this system does not let llama.cpp use it")
    wanted: dict[int, int] = {}
    for name in ("CPU_REPACK", "AMX") if amx else ("CPU_REPACK",):
        wanted |= {getattr(lib, f"GGML_TYPE_{kind}"): layouts[name] for kind in TYPES[name] if name in layouts}
    found = [(pattern, wanted[kind]) for pattern, kind in patterns(header) if kind in wanted]
    return (Override * (len(found) + 1))(*[Override(pattern.encode(), layout) for pattern, layout in found])


def patterns(header: GgufHeader) -> list[tuple[str, int]]:
    """Regular expressions for the names of the matrices that can be laid out anew, each with the type of all of them.

    Few, because llama.cpp tries each of them on each tensor.
    """
    rows = {"output": header.n_vocab, "attn_k": header.kv_width, "attn_v": header.kv_width}
    rows |= {"ffn_gate": header.n_ff, "ffn_up": header.n_ff}
    rows |= dict.fromkeys(("attn_q", "attn_output", "ffn_down"), header.n_embd)
    prefixes: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, kind in header.tensor_types.items():
        match = re.fullmatch(r"(blk\.\d+\.)?(\w+)\.weight", name)
        if match and match[2] in rows and rows[match[2]] % ROWS == 0:
            prefixes[match[2], kind].append(match[1] or "")
    return [(rf"^({'|'.join(map(re.escape, found))}){part}\.weight$", kind) for (part, kind), found in prefixes.items()]


def _layouts() -> dict[str, int]:
    """ggml's CPU layouts by name, as its own headers say how to ask for them."""
    lib, pointer = ggml_library(), ctypes.c_void_p
    device = lib.ggml_backend_dev_by_type(CPU)
    ask = lib.ggml_backend_reg_get_proc_address(
        lib.ggml_backend_dev_backend_reg(device), b"ggml_backend_dev_get_extra_bufts"
    )
    found = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(ask)(device)
    layouts, i = {}, 0
    while layout := found[i]:
        layouts[lib.ggml_backend_buft_name(layout).decode()] = layout
        i += 1
    return layouts
