"""SkinGPT on this machine: a picture in, a report out, and no connection to anywhere.

from skingpt_edge.runtime import SkinGPT

with SkinGPT.open("bundle/") as model:
    image = model.embed(Path("photo.jpg").read_bytes())
    for piece in model.stream(image, "What does this show?"):
        print(piece, end="", flush=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import engines as _engines  # noqa: F401 - switches telemetry off

if TYPE_CHECKING:
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
        ServiceError,
        SkinGPTError,
    )
    from ..engines.exclusive import Exclusive
    from .bundle import Bundle
    from .client import (
        AnswerOptions,
        Client,
        ServedAnswer,
        ServedConversation,
        ServedReport,
        StageProgress,
        TextPiece,
    )
    from .conversation import Answer, Conversation, Turn
    from .image_notes import Note
    from .install.store import Installed, Signer
    from .kv_lease import Prefill
    from .loading import Engines, load
    from .manifest import Manifest, Question
    from .options import Options, Setup
    from .prepared_photo import PreparedPhoto
    from .report import Report, Section
    from .resolving import resolve
    from .sampling import GenerationConfig
    from .scheduler import Job, Scheduler, Ticket
    from .skingpt import SkinGPT
    from .verification import open_bundle
    from .vision import ImageEmbedding, VisionModel

__all__ = [
    "Answer",
    "AnswerOptions",
    "Bundle",
    "BundleError",
    "Cancelled",
    "Client",
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
    "Installed",
    "Job",
    "LanguageModel",
    "LanguageModelSetup",
    "Manifest",
    "Note",
    "NumericalError",
    "Options",
    "Prefill",
    "PreparedPhoto",
    "Question",
    "QuestionError",
    "Report",
    "Scheduler",
    "Section",
    "ServedAnswer",
    "ServedConversation",
    "ServedReport",
    "ServiceError",
    "Setup",
    "Signer",
    "SkinGPT",
    "SkinGPTError",
    "StageProgress",
    "TensorSpec",
    "TextPiece",
    "Ticket",
    "TokenSegment",
    "Turn",
    "VisionModel",
    "load",
    "open_bundle",
    "resolve",
]

# Imported when first used: the server of `skingpt serve` and programs with a `Client` load no NumPy and no decoders.
_MODULES = {
    "..engines.base": (
        "EmbeddingSegment",
        "EngineInfo",
        "GraphEngine",
        "GraphSetup",
        "LanguageModel",
        "LanguageModelSetup",
        "TensorSpec",
        "TokenSegment",
    ),
    "..engines.errors": (
        "BundleError",
        "Cancelled",
        "EngineError",
        "EngineUnavailable",
        "ImageError",
        "InputError",
        "NumericalError",
        "QuestionError",
        "ServiceError",
        "SkinGPTError",
    ),
    "..engines.exclusive": ("Exclusive",),
    ".bundle": ("Bundle",),
    ".conversation": ("Answer", "Conversation", "Turn"),
    ".image_notes": ("Note",),
    ".install.store": ("Installed", "Signer"),
    ".kv_lease": ("Prefill",),
    ".loading": ("Engines", "load"),
    ".manifest": ("Manifest", "Question"),
    ".options": ("Options", "Setup"),
    ".prepared_photo": ("PreparedPhoto",),
    ".report": ("Report", "Section"),
    ".resolving": ("resolve",),
    ".sampling": ("GenerationConfig",),
    ".scheduler": ("Job", "Scheduler", "Ticket"),
    ".skingpt": ("SkinGPT",),
    ".verification": ("open_bundle",),
    ".vision": ("ImageEmbedding", "VisionModel"),
    ".client": (
        "AnswerOptions",
        "Client",
        "ServedAnswer",
        "ServedConversation",
        "ServedReport",
        "StageProgress",
        "TextPiece",
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
