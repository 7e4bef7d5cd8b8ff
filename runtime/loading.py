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
    """Load vision and language model at the same time. Raises BundleError, EngineError, InputError."""
    with ThreadPoolExecutor(1) as pool:
        vision = pool.submit(load_vision, bundle, setup.vision)
        try:
            model = load_language_model(bundle, setup.language_model)
        except BaseException:
            if not vision.exception():
                vision.result().close()
            raise
        try:
            return Engines(vision.result(), model)
        except BaseException:
            model.close()
            raise


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
    """Load a bundle's language model. Raises EngineError, InputError for a context it was not trained for."""
    return registry.open_language_model(bundle.file(bundle.manifest.llm.file), setup)
