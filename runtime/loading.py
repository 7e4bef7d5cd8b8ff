"""Opens the engines of a bundle exactly as a setup says, or fails."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from ..engines import registry
from ..engines.base import GraphSetup, LanguageModel, LanguageModelSetup
from .bundle import Bundle
from .options import Setup
from .vision import VisionModel


@dataclass(frozen=True)
class Engines:
    """The two open halves of a bundle."""

    vision: VisionModel
    language_model: LanguageModel


def load(bundle: Bundle, setup: Setup) -> Engines:
    """Load vision and language model at the same time.

    Raises BundleError, also for a file that changes meanwhile, EngineError, InputError.
    """
    with ThreadPoolExecutor(1) as pool, ExitStack() as opened:
        vision = pool.submit(load_vision, bundle, setup.vision)
        try:
            model = load_language_model(bundle, setup.language_model)
            opened.callback(model.close)
        finally:
            if not vision.exception():
                opened.callback(vision.result().close)
        engines = Engines(vision.result(), model)
        bundle.check_unchanged()
        opened.pop_all()  # from here on the caller closes them
        return engines


def load_vision(bundle: Bundle, setup: GraphSetup) -> VisionModel:
    """Load a bundle's two graphs. Raises BundleError, EngineError."""
    part = bundle.manifest.vision
    with ExitStack() as stack:
        graphs = []
        for name in (part.encoder, part.qformer):
            graphs.append(registry.open_graph(bundle.file(name), setup))
            stack.callback(graphs[-1].close)
        vision = VisionModel(bundle, *graphs)
        stack.pop_all()  # from here on `vision` closes them
        return vision


def load_language_model(bundle: Bundle, setup: LanguageModelSetup) -> LanguageModel:
    """Load a bundle's language model. Raises BundleError, EngineError, InputError for too much context."""
    return registry.open_language_model(bundle.file(bundle.manifest.llm.file), setup)
