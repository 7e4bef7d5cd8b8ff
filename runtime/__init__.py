"""SkinGPT on this machine: a picture in, a report out, and no connection to anywhere.

from skingpt_edge.runtime import SkinGPT

with SkinGPT.open("bundle/") as model:
    image = model.embed(Path("photo.jpg").read_bytes())
    for piece in model.stream(image, "What does this show?"):
        print(piece, end="", flush=True)
"""

from ..engines.errors import (
    BundleError,
    EngineError,
    EngineUnavailable,
    ImageError,
    InputError,
    NumericalError,
    QuestionError,
    SkinGPTError,
)
from .conversation import Answer, Conversation
from .report import Report, Section
from .sampling import GenerationConfig
from .skingpt import SkinGPT
from .vision import ImageEmbedding

__all__ = [
    "Answer",
    "BundleError",
    "Conversation",
    "EngineError",
    "EngineUnavailable",
    "GenerationConfig",
    "ImageEmbedding",
    "ImageError",
    "InputError",
    "NumericalError",
    "QuestionError",
    "Report",
    "Section",
    "SkinGPT",
    "SkinGPTError",
]
