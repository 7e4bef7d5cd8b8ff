"""From pixels to the embeddings that stand for the picture in the prompt."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..engines.base import EngineInfo, Floats, GraphEngine
from ..engines.errors import NumericalError
from .bundle import Bundle, check_graph
from .image import normalise
from .image_notes import Note
from .prepared_photo import PreparedPhoto, prepare_photo


@dataclass(frozen=True)
class ImageEmbedding:
    """A picture as the language model sees it: encode once, ask many times."""

    embeds: Floats
    """(queries, n_embd), read-only."""
    sha256: str
    """Of the file's bytes."""
    name: str
    seconds: dict[str, float] = field(default_factory=dict)
    """What each stage took: image_decode, preprocess, vision_encoder, qformer."""
    cached: bool = False
    """It was encoded before in this process."""
    notes: tuple[Note, ...] = ()
    """What a person should know of the picture."""

    def to_json(self) -> dict[str, Any]:
        """The picture as `report.schema.json` describes it."""
        notes = [note.to_json() for note in self.notes]
        return {"name": self.name, "sha256": self.sha256, "cached": self.cached, "notes": notes}


@dataclass(frozen=True)
class VisionStages:
    """Every stage of one picture."""

    pixels: Floats
    """(1, 3, size, size)"""
    image_features: Floats
    """(1, patches + 1, width), after ln_vision"""
    query_output: Floats
    """(1, queries, Q-Former width)"""
    image_embeds: Floats
    """(1, queries, n_embd)"""
    notes: tuple[Note, ...] = ()
    """On the picture's quality, and what could not be read of its file."""

    @property
    def arrays(self) -> dict[str, Floats]:
        """The stages by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


def as_embedding(stages: VisionStages, seconds: dict[str, float], sha256: str, name: str) -> ImageEmbedding:
    """The last of a picture's stages, to be asked about; `sha256` is that of its file's bytes."""
    embeds = stages.image_embeds[0]
    # Over bytes, which nobody can make writeable: the next one to ask about this picture gets the same array.
    embeds = np.frombuffer(embeds.tobytes(), embeds.dtype).reshape(embeds.shape)
    return ImageEmbedding(embeds, sha256, name, seconds, notes=stages.notes)


class VisionModel:
    """Vision encoder and Q-Former of a bundle."""

    def __init__(self, bundle: Bundle, encoder: GraphEngine, qformer: GraphEngine) -> None:
        """Raises BundleError if the graphs' own shapes are not the manifest's."""
        manifest, shapes = bundle.manifest, bundle.manifest.shapes
        features = {"image_features": shapes.image_features}
        size = manifest.image.size
        check_graph(manifest.vision.encoder, encoder.inputs, {"pixels": (3, size, size)})
        check_graph(manifest.vision.encoder, encoder.outputs, features)
        check_graph(manifest.vision.qformer, qformer.inputs, features)
        check_graph(
            manifest.vision.qformer,
            qformer.outputs,
            {"query_output": shapes.query_output, "image_embeds": shapes.image_embeds},
        )
        self._spec = manifest.image
        self._encoder = encoder
        self._qformer = qformer

    @property
    def info(self) -> dict[str, EngineInfo]:
        return {"vision_encoder": self._encoder.info, "qformer": self._qformer.info}

    def stages(self, data: bytes, name: str) -> tuple[VisionStages, dict[str, float]]:
        """All stages of an encoded picture, and the seconds each took.

        Raises ImageError, EngineError, or NumericalError if a stage gives NaN or infinity.
        """
        return self._stages_of(prepare_photo(data, name, self._spec.size), name)

    def _stages_of(self, photo: PreparedPhoto, name: str) -> tuple[VisionStages, dict[str, float]]:
        begun = time.perf_counter()
        pixels = normalise(photo.pixels, self._spec)
        marks = [time.perf_counter()]
        stages = replace(self.embed_pixels(pixels, marks), notes=photo.notes)
        if not np.isfinite(stages.image_embeds).all():
            raise NumericalError(f"{name}: the image embeddings hold NaN or infinity: the bundle is damaged")
        seconds = dict(photo.seconds)
        seconds["preprocess"] += marks[0] - begun
        seconds["vision_encoder"], seconds["qformer"] = marks[1] - marks[0], marks[2] - marks[1]
        return stages, seconds

    def embed_pixels(self, pixels: Floats, marks: list[float] | None = None) -> VisionStages:
        """Encode pixels (b, 3, size, size); the time after each of the two graphs is added to `marks`."""
        marks = [] if marks is None else marks
        features = self._encoder.run({"pixels": pixels})["image_features"]
        marks.append(time.perf_counter())
        outputs = self._qformer.run({"image_features": features})
        marks.append(time.perf_counter())
        return VisionStages(pixels, features, outputs["query_output"], outputs["image_embeds"])

    def embed(self, data: bytes, name: str) -> ImageEmbedding:
        """Encode a picture. Raises as `stages` does."""
        return self.embed_photo(prepare_photo(data, name, self._spec.size), name)

    def embed_photo(self, photo: PreparedPhoto, name: str) -> ImageEmbedding:
        """Encode a photo that was prepared for this size. Raises EngineError, NumericalError."""
        return as_embedding(*self._stages_of(photo, name), photo.sha256, name)

    def close(self) -> None:
        self._encoder.close()
        self._qformer.close()
