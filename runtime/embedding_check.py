"""Checks an embedding that a user hands in; it may have been made elsewhere, or changed."""

from dataclasses import replace

import numpy as np

from ..engines.errors import ImageError
from .vision import ImageEmbedding


def checked_embedding(image: ImageEmbedding, shape: tuple[int, ...]) -> ImageEmbedding:
    """A copy whose values nobody can change; `shape` is (queries, n_embd). Raises ImageError."""
    if not isinstance(image, ImageEmbedding):
        raise ImageError(f"the image is {image!r:.60}, expected what `embed` returns")
    embeds = image.embeds
    if not isinstance(embeds, np.ndarray) or embeds.dtype != np.float32 or embeds.shape != shape:
        found = f"{embeds.dtype} {embeds.shape}" if isinstance(embeds, np.ndarray) else type(embeds).__name__
        raise ImageError(f"{image.name}: the embedding is {found}, expected float32 {shape} for this bundle")
    embeds = np.frombuffer(embeds.tobytes(), np.float32).reshape(shape)
    if not np.isfinite(embeds).all():
        raise ImageError(f"{image.name}: the embedding holds NaN or infinity: encode the picture again")
    return replace(image, embeds=embeds)
