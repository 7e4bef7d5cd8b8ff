"""SkinGPT on this machine: a picture in, a report out, and no connection to anywhere.

from skingpt_edge.runtime import SkinGPT

with SkinGPT.open("bundle/") as model:
    image = model.embed(Path("photo.jpg").read_bytes())
    for piece in model.stream(image, "What does this show?"):
        print(piece, end="", flush=True)
"""

from ..engines.base import (
    EmbeddingSegment,
    EngineInfo,
    GraphEngine,
    GraphSetup,
    LanguageModel,
    LanguageModelSetup,
    TensorSpec,
    TokenSegment,
)
from ..engines.errors import (
    BundleError,
    Cancelled,
    EngineError,
    EngineUnavailable,
    ImageError,
    InputError,
    NumericalError,
    QuestionError,
    SkinGPTError,
)
from ..engines.exclusive import Exclusive
from .bundle import Bundle
from .conversation import Answer, Conversation, Turn
from .image_notes import Note
from .kv_cache import Prefill
from .loading import Engines, load
from .manifest import Manifest, Question
from .options import Options, Setup
from .report import Report, Section
from .resolve import resolve
from .sampling import GenerationConfig
from .scheduler import Job, Scheduler, Ticket
from .skingpt import SkinGPT
from .verification import open_bundle
from .vision import ImageEmbedding, VisionModel

__all__ = [
    "Answer",
    "Bundle",
    "BundleError",
    "Cancelled",
    "Conversation",
    "EmbeddingSegment",
    "EngineError",
    "EngineInfo",
    "EngineUnavailable",
    "Engines",
    "Exclusive",
    "GenerationConfig",
    "GraphEngine",
    "GraphSetup",
    "ImageEmbedding",
    "ImageError",
    "InputError",
    "Job",
    "LanguageModel",
    "LanguageModelSetup",
    "Manifest",
    "Note",
    "NumericalError",
    "Options",
    "Prefill",
    "Question",
    "QuestionError",
    "Report",
    "Scheduler",
    "Section",
    "Setup",
    "SkinGPT",
    "SkinGPTError",
    "TensorSpec",
    "Ticket",
    "TokenSegment",
    "Turn",
    "VisionModel",
    "load",
    "open_bundle",
    "resolve",
]
