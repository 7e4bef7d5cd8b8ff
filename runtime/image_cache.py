"""Pictures that were encoded already in this process; nothing of them is on disk."""

from collections import OrderedDict
from dataclasses import dataclass, replace

from .vision import ImageEmbedding

PREPROCESSING = 1
"""Raised when the same bytes would give other pixels than before."""


@dataclass(frozen=True)
class Key:
    """What an embedding depends on."""

    image_sha256: str
    bundle_id: str
    preprocessing: int = PREPROCESSING


class ImageCache:
    """The embeddings of the pictures used last, `size` of them at most; 0 keeps none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[Key, ImageEmbedding] = OrderedDict()

    def get(self, key: Key, name: str) -> ImageEmbedding | None:
        """The embedding under this file name, with no seconds spent, or None."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return replace(found, name=name, seconds=dict.fromkeys(found.seconds, 0.0), cached=True)

    def put(self, key: Key, image: ImageEmbedding) -> None:
        self._kept[key] = image
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        self._kept.clear()
