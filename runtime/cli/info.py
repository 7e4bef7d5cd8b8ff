"""`skingpt info`: what a bundle is and whether this machine can run it, without loading it."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from ...engines.errors import EngineError, EngineUnavailable
from ...engines.registry import GRAPH_ENGINES, LANGUAGE_MODELS, Engine
from ..bundle import Bundle, default_bundle, read_bundle
from ..gpu_requirements import GpuRequirements, check_gpu, gpu_requirements
from ..machine import physical_cores
from ..options import Options, Setup
from ..printable import one_line
from ..requirements import requirements
from ..resolving import resolve
from ..tuning import measured_speed
from .arguments import BundleAndOptions, add_bundle, add_setup, parse_setup

HELP = "say what a bundle is, whether this machine can run it, and how long answers take"
ONLY_IN_JSON = (  # the sentences have them
    "memory_needed_bytes", "memory_available_bytes", "fits", "answer_seconds",
    "gpu_memory_needed_bytes", "gpu_memory_free_bytes",
)  # fmt: skip


def configure(parser: ArgumentParser) -> None:
    add_bundle(parser)
    add_setup(parser)


def parse(given: Namespace) -> BundleAndOptions:
    return BundleAndOptions(given.bundle or default_bundle(), given.json, parse_setup(given))


def run(arguments: BundleAndOptions) -> int:
    facts = _facts(read_bundle(arguments.bundle), arguments.options)
    if arguments.json:
        print(json.dumps(facts))
        return 0
    facts["size_bytes"] = f"{facts['size_bytes']:,}"
    for name, fact in facts.items():
        if name == "setup":
            for half, values in fact.items():
                _print_fact(f"setup, {half}", values)
        elif name == "engines":
            _print_fact(name, ", ".join(build.split(";")[0] for build in fact.values()))
        elif name not in ONLY_IN_JSON:
            _print_fact(name, fact)
    return 0


def _print_fact(name: str, fact: Any) -> None:
    text = ", ".join(f"{key} {value}" for key, value in fact.items()) if isinstance(fact, dict) else str(fact)
    print(f"{name.replace('_', ' '):<24}{one_line(text)}")


def _facts(bundle: Bundle, options: Options) -> dict[str, Any]:
    manifest, setup = bundle.manifest, resolve(bundle, options)
    found = requirements(bundle, setup, measured_speed(bundle, setup))
    gpu = gpu_requirements(bundle, setup)
    missing = _missing_gpu(setup)
    return {
        "name": manifest.name,
        "bundle": str(bundle.path),
        "id": bundle.id,
        "installed": _origin(bundle),
        "format": manifest.format,
        "size_bytes": sum(entry.size for entry in manifest.files.values()),
        "vision": manifest.vision.precision,
        "vision_arithmetic": manifest.vision.arithmetic,
        "language_model": manifest.llm.type,
        "context": manifest.llm.context,
        "made_by": manifest.provenance.exporter,
        "parity": _parity(bundle),
        "engines": {
            setup.vision.engine: _build(GRAPH_ENGINES[setup.vision.engine]),
            setup.language_model.engine: _build(LANGUAGE_MODELS[setup.language_model.engine]),
        },
        "setup": {"vision": asdict(setup.vision), "language_model": asdict(setup.language_model)},
        "cores": physical_cores(),
        "memory_needed_bytes": found.needed,
        "memory_available_bytes": found.available,
        "fits": found.fits and (gpu is None or gpu.fits) and not missing,
        "answer_seconds": None if found.answer_seconds is None else round(found.answer_seconds, 2),
        "here": found.sentence(),
        **(_gpu_facts(gpu, missing) if gpu else {}),
        "notice": bundle.notice,
    }


def _gpu_facts(gpu: GpuRequirements, missing: str) -> dict[str, Any]:
    return {
        "gpu_memory_needed_bytes": gpu.needed,
        "gpu_memory_free_bytes": gpu.free,
        "gpu": f"{missing}. {gpu.sentence()}" if missing else gpu.sentence(),
    }


def _missing_gpu(setup: Setup) -> str:
    """What keeps the setup from using the GPU; empty if nothing does."""
    try:
        check_gpu(setup)
    except EngineError as error:
        return str(error)
    return ""


def _origin(bundle: Bundle) -> str:
    if bundle.installed is None:
        return "no, it is a folder"
    return f"{bundle.installed.name} version {bundle.installed.version}, {bundle.installed.signature}"


def _parity(bundle: Bundle) -> str:
    parity = bundle.manifest.parity
    if parity is None:
        return "none: synthetic, there is no original"
    figures = (
        f"image embeddings cosine {parity.stages['image_embeds'].cosine:.6f}, "
        f"{parity.llm.teacher_forced:.1%} of tokens as the original's, on {parity.pictures} pictures"
    )
    return figures if not parity.failures else f"{figures}; ACCEPTED BY HAND: {'; '.join(parity.failures)}"


def _build(engine: Engine) -> str:
    try:
        return engine.build()
    except EngineUnavailable as error:
        return str(error)
