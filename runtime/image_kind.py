"""What a file really is, by its first bytes and whatever it is called, and how to make a photo of it."""

from collections.abc import Callable
from dataclasses import dataclass

ONE_FRAME = "save one frame of it as JPEG or PNG"
SAVE_AS_JPEG = "open it in any viewer of pictures and save it as JPEG or PNG"


class NotRead(ValueError):
    """A picture may be whole, but is of a kind that is not read; the text says which, and what to do."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that is not read here."""

    name: str
    advice: str
    """What to do with it, as a part of a sentence."""
    recognises: Callable[[bytes], bool]
    """Whether these bytes, the file's first, are of this kind."""


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


def _brands(*wanted: bytes) -> Callable[[bytes], bool]:
    """An ISO base media file (ISO/IEC 14496-12) with one of these brands, or any if none is named."""

    def recognises(head: bytes) -> bool:
        if head[4:8] != b"ftyp":
            return False
        box = head[8 : min(int.from_bytes(head[:4], "big"), 256)]
        return not wanted or any(box[at : at + 4] in wanted for at in range(0, len(box), 4))

    return recognises


def _riff(kind: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] == b"RIFF" and head[8:12] == kind


KINDS = (
    Kind("an AVIF picture", SAVE_AS_JPEG, _brands(b"avif", b"avis")),  # before HEIC: both may name the brand mif1
    Kind(
        "a HEIC picture (as iPhones take them)",
        "share or export it as JPEG, or set the phone's camera to JPEG (iPhone: Settings, Camera, Formats, Most "
        "Compatible)",
        _brands(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"),
    ),
    Kind("a raw picture of a Canon camera", "export it as JPEG with the camera's program", _brands(b"crx ")),
    Kind("a JPEG 2000 picture", SAVE_AS_JPEG, _brands(b"jp2 ", b"jpx ")),
    Kind("a video", ONE_FRAME, _brands()),
    Kind(
        "a video", "save one frame of it as JPEG or PNG", _starts(b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3")
    ),
    Kind("a video", ONE_FRAME, _riff(b"AVI ")),
    Kind("a JPEG 2000 picture", SAVE_AS_JPEG, _starts(b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    Kind("a JPEG XL picture", SAVE_AS_JPEG, _starts(b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    Kind(
        "a DICOM file",
        "export the picture as JPEG or PNG with the program that shows it, without the patient's data",
        lambda head: head[128:132] == b"DICM",
    ),
    Kind(
        "a PDF document",
        "save the picture in it as JPEG or PNG, or take a screenshot of it",
        lambda head: b"%PDF-" in head[:1024],
    ),
    Kind(
        "a TIFF picture or a camera's raw picture",
        SAVE_AS_JPEG,
        _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"IIRO", b"IIU\0", b"FUJIFILMCCD-RAW"),
    ),
    Kind("a BMP picture", SAVE_AS_JPEG, lambda head: head[:2] == b"BM" and head[6:10] == b"\0\0\0\0"),
    Kind("a GIF picture", SAVE_AS_JPEG, _starts(b"GIF87a", b"GIF89a")),
    Kind("a Photoshop document", "save it as JPEG or PNG", _starts(b"8BPS")),
    Kind("an icon", SAVE_AS_JPEG, _starts(b"\0\0\x01\0")),
    Kind("an SVG drawing", "save it as PNG", lambda head: b"<svg" in head),
    Kind(
        "a web page",
        "save the picture itself, not the page",
        lambda head: head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")),
    ),
    Kind("a ZIP archive or an office document", "take the picture out of it", _starts(b"PK\x03\x04")),
)


def kind_of(data: bytes) -> Kind | None:
    """The kind of a file that is no JPEG, PNG or WebP; None if it is not known."""
    head = data[:4096]
    return next((kind for kind in KINDS if kind.recognises(head)), None)
