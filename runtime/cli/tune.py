"""`skingpt tune`: measure which threads and which layout are fastest on this machine, and remember it."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from ...engines.base import LAYOUTS
from ...engines.errors import InputError
from ..bundle import default_bundle
from ..gpu_requirements import check_gpu, check_gpu_memory
from ..machine import available_memory
from ..requirements import gigabytes, needed_memory
from ..resolving import resolve
from ..tuning import remember, tune
from ..verification import open_bundle
from .arguments import BundleAndOptions, add_bundle, add_setup, parse_setup
from .terminal import show_hashing, show_progress

HELP = "measure how many threads, and which layout of the weights, are fastest on this machine, and remember it"


def configure(parser: ArgumentParser) -> None:
    add_bundle(parser)
    add_setup(parser)


def parse(given: Namespace) -> BundleAndOptions:
    return BundleAndOptions(given.bundle or default_bundle(), given.json, parse_setup(given, tuning=False))


def run(arguments: BundleAndOptions) -> int:
    bundle = open_bundle(arguments.bundle, progress=show_hashing)
    setup = resolve(bundle, arguments.options)
    check_gpu(setup)
    check_gpu_memory(bundle, setup)
    needed, free = needed_memory(bundle, setup), available_memory()
    if free is not None and needed > free:
        raise InputError(
            f"the bundle needs {gigabytes(needed)} of memory and {gigabytes(free)} are free: close other programs, "
            "or export a smaller language model"
        )
    model, asked = setup.language_model, arguments.options.layout
    layouts = LAYOUTS if model.device == "cpu" and not asked else (model.layout,)
    found = tune(bundle, setup, layouts, say=show_progress)
    target = remember(bundle, setup, found)
    if arguments.json:
        print(json.dumps({"bundle": bundle.id, **asdict(found), "file": str(target)}))
    else:
        layout = f"{found.layout}, as asked for" if asked else found.layout
        print(
            f"fastest here: {found.vision_threads} threads for vision, {found.prefill_threads} for prompts, "
            f"{found.threads} for answers; weights {layout}\nremembered in {target}; --no-tuning ignores it"
        )
    return 0
