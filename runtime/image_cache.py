"""Pictures that were encoded already in this process; nothing of them is on disk."""

from collections import OrderedDict
from dataclasses import replace
from threading import Lock

from .vision import ImageEmbedding


class ImageCache:
    """The embeddings of the pictures used last, `size` of them at most; 0 keeps none. Threads may share it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[str, ImageEmbedding] = OrderedDict()
        self._lock = Lock()

    def get(self, sha256: str, name: str) -> ImageEmbedding | None:
        """The embedding of the file with this SHA-256, under this name and with no seconds spent; or None."""
        with self._lock:
            found = self._kept.get(sha256)
            if found is None:
                return None
            self._kept.move_to_end(sha256)
        return replace(found, name=name, seconds=dict.fromkeys(found.seconds, 0.0), cached=True)

    def put(self, image: ImageEmbedding) -> None:
        with self._lock:
            self._kept[image.sha256] = replace(image, seconds=dict(image.seconds))  # the caller has the other one
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)

    def remove(self, sha256: str) -> None:
        with self._lock:
            self._kept.pop(sha256, None)

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()
