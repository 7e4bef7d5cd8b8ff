"""The picture that a bundle is checked with, and the values of its embeddings that the bundle stores."""

import numpy as np
from PIL import Image

from ..engines.base import Floats
from ..engines.errors import BundleError, EngineError
from .image import preprocess
from .manifest import MANIFEST, Manifest
from .vision import VisionModel

SPREAD = 64
LEAST_COSINE = 0.9999
"""Between stored and computed values, both without their mean: the limit that float16 graphs are held to."""


def test_picture() -> Image.Image:
    """An RGB picture (64 × 48) with light, dark and all colours in it, the same on every machine."""
    y, x = np.mgrid[0:48, 0:64]
    return Image.fromarray(np.stack((x * 4, y * 5, (x + y) * 2), axis=-1).astype(np.uint8))


def spread(count: int) -> list[int]:
    """Evenly spaced places among `count` values, 64 at most."""
    return [int(place) for place in np.linspace(0, count - 1, min(SPREAD, count))]


def check_vision(vision: VisionModel, manifest: Manifest) -> None:
    """Compare what vision makes of the picture here with what the bundle stores of it.

    Raises EngineError if the cosine is below the limit, BundleError if the bundle stores nothing.
    """
    if manifest.self_test is None:
        raise BundleError(f"{MANIFEST}: it has no self-test to check this engine by: run `skingpt-export upgrade`")
    values = vision.embed_pixels(preprocess(test_picture(), manifest.image)).image_embeds.ravel()
    found = cosine(np.array(manifest.self_test.image_embeds), values[spread(len(values))])
    if not found >= LEAST_COSINE:  # also for NaN
        engine = vision.info["vision_encoder"]
        raise EngineError(
            f"{engine.engine} {engine.version} does not compute here what the bundle stores: the cosine of the image "
            f"embeddings is {found:.6f}, the limit {LEAST_COSINE}. Ask for --vision-engine onnxruntime"
        )


def cosine(expected: Floats, found: Floats) -> float:
    """Of the angle between two vectors, both without their mean; NaN if they are of different length."""
    if expected.shape != found.shape:
        return float("nan")
    a, b = expected - expected.mean(), found - found.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
