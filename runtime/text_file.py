"""Texts that a person wrote in an editor: UTF-8, or UTF-16 that says so with a byte order mark."""

import codecs
from pathlib import Path

from ..engines.errors import InputError


def read_text(path: Path) -> str:
    """The text of a file. Raises InputError if it cannot be read or is no such text."""
    try:
        data = path.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-32, or UTF-16 without a mark
        raise InputError(f"{path} is not a text in UTF-8: save it as UTF-8 in the editor")
    return text
