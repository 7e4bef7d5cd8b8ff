"""A photo decoded and resized: what vision is given. It can be made in another process."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .image import decode_photo, resize
from .image_notes import SIDE, Note, quality_notes


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """Pixels, and what is known of the photo beside them."""

    pixels: NDArray[np.uint8]
    """(size, size, 3), sRGB."""
    sha256: str
    """Of the file's bytes."""
    notes: tuple[Note, ...] = ()
    """On the picture's quality, and what could not be read of its file."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What each stage took: image_decode, preprocess."""

    def description(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON; see `from_description`."""
        notes = [note.to_json() for note in self.notes]
        return {"size": len(self.pixels), "sha256": self.sha256, "notes": notes, "seconds": dict(self.seconds)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any], pixels: bytes) -> Self:
        """What `description` says of these pixels."""
        size = description["size"]
        return cls(
            np.frombuffer(pixels, np.uint8).reshape(size, size, 3),
            description["sha256"],
            tuple(Note(note["code"], note["text"]) for note in description["notes"]),
            description["seconds"],
        )


def prepare_photo(data: bytes, name: str, size: int) -> PreparedPhoto:
    """Decode a JPEG, PNG or WebP file and resize it to `size` pixels a side. Raises ImageError."""
    begun = time.perf_counter()
    photo = decode_photo(data, name)
    decoded = time.perf_counter()
    pixels = resize(photo.image, size)
    notes = photo.notes + quality_notes(photo.image.size, pixels if size == SIDE else resize(photo.image, SIDE))
    seconds = {"image_decode": decoded - begun, "preprocess": time.perf_counter() - decoded}
    return PreparedPhoto(pixels, sha256(data).hexdigest(), notes, seconds)
