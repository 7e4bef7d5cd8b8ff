"""Foretells the GPU memory that a bundle needs, and says what to do where a GPU has less free.

The formula counts what the files and the setup tell: weights, KV cache, buffers of one call. The rest are constants,
measured with a 7B bundle (float16 weights cast up to float32 for vision, q4_k_m, context 2048) on an H100.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..engines.base import LanguageModelSetup
from ..engines.cuda_driver import gpu_kind
from ..engines.errors import EngineError, EngineUnavailable
from ..engines.gguf_header import GgufHeader, read_gguf_header
from ..engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS
from .bundle import Bundle
from .gpu_layers import layers_on_gpu, weights_on_gpu
from .machine import free_gpu_memory
from .options import Setup
from .requirements import KV_BYTES, gigabytes

MIB = 1 << 20
CUDA = 740_000_000  # bytes: CUDA's context, the kernels of ONNX Runtime and llama.cpp, workspaces of cuBLAS and cuDNN
FIRST_REPORT = 240_000_000  # bytes that the first report adds: buffers that are made when they are first used
LARGEST_STEP = 1024  # MiB; ONNX Runtime takes memory in steps that double from 1 MiB up to this
HEAD_WIDTH = 128  # of Llama's attention, for the buffer of its scores
WIDTHS = 12  # activations of a layer that exist at the same time, in widths of the model
SMALL_CONTEXT = 1024  # tokens: a report of four questions still fits


@dataclass(frozen=True)
class GpuRequirements:
    """What a bundle needs of a GPU's memory and what is free, in bytes; and what would make it fit."""

    needed: int
    free: int | None
    """None where the driver does not say."""
    remedies: tuple[str, ...] = ()
    """Options with which it would fit, the least loss first; only where it does not."""

    @property
    def fits(self) -> bool:
        return self.free is None or self.needed <= self.free

    def sentence(self) -> str:
        """For a person."""
        if self.free is None:
            return f"It needs {gigabytes(self.needed)} of GPU memory; nvidia-smi does not say what is free."
        if self.fits:
            return f"It fits: it needs {gigabytes(self.needed)} of GPU memory and {gigabytes(self.free)} are free."
        verdict = (
            f"It does not fit: it needs {gigabytes(self.needed)} of GPU memory and only {gigabytes(self.free)} are free"
        )
        ways = f"it would fit with {', or with '.join(self.remedies)}; or " if self.remedies else ""
        return f"{verdict}: {ways}close what else uses the GPU, or export the language model as a smaller type."


def gpu_requirements(bundle: Bundle, setup: Setup, free: int | None = None) -> GpuRequirements | None:
    """What a bundle needs of the GPU with this setup; None if the setup uses none.

    `free` is in bytes; without it the driver is asked. Raises BundleError.
    """
    if "cuda" not in (setup.vision.device, setup.language_model.device):
        return None
    manifest = bundle.manifest
    header = read_gguf_header(bundle.file(manifest.llm.file))
    part = manifest.vision
    # ONNX Runtime computes in float32 what is only stored as float16, and keeps the larger weights alone.
    cast_up = part.precision == "f16" and part.arithmetic == "float32"
    graphs = [
        (2 if cast_up else 1)
        * sum(manifest.files[file].size for file in (name, f"{name}.data") if file in manifest.files)
        for name in dict.fromkeys((part.encoder, part.qformer))
    ]
    return estimate(graphs, header, setup, free_gpu_memory() if free is None else free)


def check_gpu(setup: Setup) -> None:
    """Raises EngineUnavailable if the setup uses a GPU, and it, its driver or an engine's code for it is not there."""
    for kind, half, on_cpu in (
        (GRAPH_ENGINES, setup.vision, "--vision-device cpu"),
        (LANGUAGE_MODELS, setup.language_model, "'cpu'"),
    ):
        if half.device != "cuda":
            continue
        kind[half.engine].build()  # says itself what keeps it from being loaded
        if not kind[half.engine].is_installed_for(half.device):
            raise EngineUnavailable(
                f"device 'cuda' was asked for, but this {half.engine} is not built for it: see docs/gpu.md, or ask for "
                f"{on_cpu}"
            )
    if "cuda" in (setup.vision.device, setup.language_model.device):
        gpu_kind()


def check_gpu_memory(bundle: Bundle, setup: Setup) -> None:
    """Raises EngineError, with what to do, if a GPU that the setup uses has too little memory free."""
    found = gpu_requirements(bundle, setup)
    if found and not found.fits:
        raise EngineError(found.sentence())


def estimate(graphs: Sequence[int], header: GgufHeader, setup: Setup, free: int | None) -> GpuRequirements:
    """As `gpu_requirements`; `graphs` are the bytes of each vision graph's weights as they are computed with."""
    needed = needed_gpu_memory(graphs, header, setup)
    if free is None or needed <= free:
        return GpuRequirements(needed, free)
    remedies = []
    for words, changed in _changes(graphs, header, setup, free):
        less = needed_gpu_memory(graphs, header, changed)
        if less <= free:
            remedies.append(f"{words} ({gigabytes(less)})")
    return GpuRequirements(needed, free, tuple(remedies))


def needed_gpu_memory(graphs: Sequence[int], header: GgufHeader, setup: Setup) -> int:
    """Bytes of GPU memory that a process with this setup has taken when its first report is done."""
    needed = CUDA + FIRST_REPORT
    if setup.vision.device == "cuda":
        needed += sum(map(_in_steps, graphs))  # activations of one picture find room in the last step
    if setup.language_model.device == "cuda":
        needed += _language_model(header, setup.language_model)
    return needed


def _in_steps(size: int) -> int:
    """Bytes that ONNX Runtime takes of the GPU to place so many."""
    taken, step = 0, 1
    while taken * MIB < size:
        taken, step = taken + step, min(2 * step, LARGEST_STEP)
    return taken * MIB


def _language_model(header: GgufHeader, setup: LanguageModelSetup) -> int:
    """Bytes of weights, KV cache and buffers of a language model."""
    keys, _, values = setup.kv_type.partition("/")
    cell = layers_on_gpu(header, setup) * header.kv_width * (KV_BYTES[keys] + KV_BYTES[values or keys])
    scores = 0 if setup.flash_attention else setup.cells * header.n_embd // HEAD_WIDTH
    buffers = 4 * setup.batch * (header.n_vocab + WIDTHS * header.n_embd + scores)  # float32
    return weights_on_gpu(header, setup) + int(cell * setup.cells) + buffers


def _changes(graphs: Sequence[int], header: GgufHeader, setup: Setup, free: int) -> Iterator[tuple[str, Setup]]:
    """Setups that need less, each with the options for it, the least loss first."""
    model = setup.language_model
    if model.device == "cuda":
        if model.cells > model.context:
            yield "one conversation or sample at a time", _with(setup, cells=model.context, sequences=2)
        if model.kv_type != "q8_0":
            yield "--kv-type q8_0", _with(setup, kv_type="q8_0", flash_attention=True)
        if model.context > SMALL_CONTEXT:
            cells = model.cells * SMALL_CONTEXT // model.context
            yield f"--context {SMALL_CONTEXT}", _with(setup, context=SMALL_CONTEXT, cells=cells)
    on_cpu = replace(setup, vision=replace(setup.vision, device="cpu"))
    if setup.vision.device == "cuda" and model.device == "cuda":
        yield "--vision-device cpu", on_cpu
    if model.device == "cuda":
        for words, other in (("", setup), ("--vision-device cpu ", on_cpu)):
            layers = _most_layers(graphs, header, other, free)
            if 0 < layers < model.gpu_layers:
                yield f"{words}--gpu-layers {layers}", _with(other, gpu_layers=layers)
                return


def _most_layers(graphs: Sequence[int], header: GgufHeader, setup: Setup, free: int) -> int:
    fitting = (
        count
        for count in range(header.n_layer, 0, -1)
        if needed_gpu_memory(graphs, header, _with(setup, gpu_layers=count)) <= free
    )
    return next(fitting, 0)


def _with(setup: Setup, **changes: object) -> Setup:
    return replace(setup, language_model=replace(setup.language_model, **changes))  # type: ignore[arg-type]
