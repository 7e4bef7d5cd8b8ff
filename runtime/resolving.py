"""Turns `Options` into a `Setup`. What a user leaves open is chosen here and nowhere else."""

from dataclasses import replace

from ..engines.base import GraphSetup, LanguageModelSetup
from ..engines.errors import InputError
from ..engines.gguf_header import read_gguf_header
from ..engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS, choose
from .bundle import Bundle
from .machine import logical_cpus, physical_cores
from .options import MAX_CONVERSATIONS, Options, Setup
from .tuning import Tuning, recall


def resolve(bundle: Bundle, options: Options) -> Setup:
    """The setup of a bundle on this machine.

    What the options leave open comes from the bundle, from what `skingpt tune` measured here, from the registry of
    engines and from the number of cores. Nothing is loaded. The same bundle, options and machine give the same setup.

    Raises InputError for an engine or device that is unknown and for more threads than processors, BundleError.
    """
    _check_threads(options)
    engine = choose(LANGUAGE_MODELS, options.language_engine, options.device)
    if options.vision_device is None:
        options = replace(options, vision_device=_vision_device(bundle, options))
    vision = vision_setup(options)
    devices = vision.device, options.device
    tuned = recall(bundle, (vision.engine, engine), devices) if options.tuning else None
    return Setup(
        vision=vision_setup(options, tuned),
        language_model=_language_model_setup(bundle, options, engine, tuned),
        huge_pages=options.huge_pages,
        prompt_snapshot=options.prompt_snapshot,
        image_cache=options.image_cache,
    )


def _check_threads(options: Options) -> None:
    # More of them wait for each other: an answer takes many times as long.
    for name in ("threads", "vision_threads", "prefill_threads"):
        if (given := getattr(options, name)) and given > logical_cpus():
            raise InputError(f"{name} is {given}, but this machine has {logical_cpus()} processors for it: give fewer")


def _vision_device(bundle: Bundle, options: Options) -> str:
    """Where vision runs unless device or engine are named: no engine here has all of an int8 graph's code for a GPU."""
    stays = options.device == "cuda" and options.vision_engine is None and bundle.manifest.vision.arithmetic == "int8"
    return "cpu" if stays else options.device


def vision_setup(options: Options, tuned: Tuning | None = None) -> GraphSetup:
    """How graphs are run. Raises InputError."""
    device = options.vision_device or options.device
    measured = tuned.vision_threads if tuned and device == "cpu" else None
    return GraphSetup(
        engine=choose(GRAPH_ENGINES, options.vision_engine, device),
        device=device,
        threads=options.vision_threads or options.threads or measured or physical_cores(),
    )


def _language_model_setup(bundle: Bundle, options: Options, engine: str, tuned: Tuning | None) -> LanguageModelSetup:
    on_cpu = options.device == "cpu"
    tuned = tuned if on_cpu else None
    threads = options.threads or (tuned and tuned.threads) or physical_cores()
    context = options.context or bundle.manifest.llm.context
    kv_type, flash_attention = _attention(bundle, options)
    return LanguageModelSetup(
        engine=engine,
        device=options.device,
        gpu_layers=0 if on_cpu else _gpu_layers(bundle, options),
        threads=threads,
        prefill_threads=options.prefill_threads or options.threads or (tuned and tuned.prefill_threads) or threads,
        context=context,
        cells=options.cells or _cells(bundle, options, context),
        sequences=1 + max(options.conversations, min(options.samples, MAX_CONVERSATIONS)),
        batch=options.batch,
        kv_type=kv_type,
        flash_attention=flash_attention,
        layout=options.layout or (tuned and tuned.layout) or _usual_layout(options),
    )


def _usual_layout(options: Options) -> str:
    # A GPU that computes all layers leaves no weights that this processor multiplies.
    return "repacked" if options.device == "cpu" or options.gpu_layers is not None else "plain"


def _attention(bundle: Bundle, options: Options) -> tuple[str, bool]:
    """Type of the KV cache, and whether flash attention is used."""
    part = bundle.manifest.llm
    if options.device != "cpu" and not options.kv_type and part.kv_type == "q8_0/f16":
        return "f16", True  # what GPUs have kernels for
    kv_type = options.kv_type or part.kv_type
    return kv_type, part.flash_attention or kv_type == "q8_0"


def _gpu_layers(bundle: Bundle, options: Options) -> int:
    """The layers asked for; unless given all of them, and the output matrix."""
    if options.gpu_layers is not None:
        return options.gpu_layers
    return read_gguf_header(bundle.file(bundle.manifest.llm.file)).n_layer + 1


def _cells(bundle: Bundle, options: Options, context: int) -> int:
    """Room for every conversation, and for samples, which share their prompt's cells and need more for answers only."""
    answer = options.sample_tokens or bundle.manifest.generation.max_new_tokens
    return max(context * options.conversations, context + (options.samples - 1) * answer)
