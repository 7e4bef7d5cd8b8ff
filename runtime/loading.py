"""Opens the engines of a bundle exactly as a setup says, or fails."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from ..engines import registry
from ..engines.base import GraphEngine, GraphSetup, LanguageModel, LanguageModelSetup
from .bundle import Bundle, Progress
from .check_picture import check_vision
from .options import Setup
from .plan_cache import plan_for
from .vision import VisionModel


@dataclass(frozen=True)
class Engines:
    """The two open halves of a bundle."""

    vision: VisionModel
    language_model: LanguageModel


def load(bundle: Bundle, setup: Setup, progress: Progress | None = None) -> Engines:
    """Load vision and language model at the same time; `progress` hears of `plan` when a graph is compiled for a GPU.

    Raises BundleError, also for a file that changes meanwhile, EngineError, InputError.
    """
    with ThreadPoolExecutor(1) as pool, ExitStack() as opened:
        vision = pool.submit(load_vision, bundle, setup.vision, progress)
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


def load_vision(bundle: Bundle, setup: GraphSetup, progress: Progress | None = None) -> VisionModel:
    """Load a bundle's two graphs, and check with the self-test what an engine computes that is to be checked.

    Raises BundleError, EngineError.
    """
    part = bundle.manifest.vision
    with ExitStack() as stack:
        graphs = []
        for name in (part.encoder, part.qformer):
            graphs.append(open_vision_graph(bundle, name, setup, progress))
            stack.callback(graphs[-1].close)
        vision = VisionModel(bundle, *graphs)
        if registry.GRAPH_ENGINES[setup.engine].needs_check:
            check_vision(vision, bundle.manifest)
        stack.pop_all()  # from here on `vision` closes them
        return vision


def open_vision_graph(bundle: Bundle, name: str, setup: GraphSetup, progress: Progress | None = None) -> GraphEngine:
    """Open the graph of this name with the engine that the setup names. Raises BundleError, EngineError."""
    if registry.GRAPH_ENGINES[setup.engine].needs_plan:
        return registry.open_graph(bundle.file(name), setup, plan_for(bundle, name, progress))
    return registry.open_graph(bundle.file(name), setup)


def load_language_model(bundle: Bundle, setup: LanguageModelSetup) -> LanguageModel:
    """Load a bundle's language model. Raises BundleError, EngineError, InputError for too much context."""
    return registry.open_language_model(bundle.file(bundle.manifest.llm.file), setup)
