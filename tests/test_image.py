"""What is accepted as a picture, what it becomes, and what is refused with which words."""

import io
import os
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageCms
from skingpt_edge.engines.errors import ImageError
from skingpt_edge.runtime.image import MAX_BYTES, decode_image, preprocess, read_image_file, resize, thumbnail
from skingpt_edge.runtime.manifest import ImageSpec
from skingpt_edge.runtime.png_color import BT709, SRGB_CURVE
from skingpt_edge.runtime.rgb_profile import rgb_profile
from support import encode

ALPHA = Image.linear_gradient("L")


def same(found: Image.Image, expected: Image.Image) -> bool:
    return found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_png_of_any_mode_becomes_rgb_as_pillow_converts_it(photo, mode):
    image = photo.convert(mode)
    assert same(decode_image(encode(image, "PNG"), "a.png"), image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_shown_on_white(photo, mode):
    image = photo.convert(mode)
    image.putalpha(ALPHA.resize(photo.size))
    white = Image.new("RGBA", photo.size, "white")
    shown = np.asarray(decode_image(encode(image, "PNG"), "a.png")).astype(int)
    assert np.abs(shown - np.asarray(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_hides_nothing_changes_nothing(photo, mode):
    image = photo.convert(mode)
    assert same(decode_image(encode(image, "PNG"), "a.png"), image.convert("RGB"))


def test_a_fully_transparent_picture_is_refused(photo):
    image = photo.convert("RGBA")
    image.putalpha(0)
    refused(encode(image, "PNG"), "fully transparent")
    refused(encode(image, "WEBP", exact=True), "fully transparent")


def test_a_transparent_entry_of_a_palette_is_white(photo):
    image = photo.convert("P")
    index = image.getpixel((0, 0))
    shown = np.asarray(decode_image(encode(image, "PNG", transparency=index), "a.png"))
    where = np.asarray(image) == index
    assert (shown[where] == 255).all()
    assert np.array_equal(shown[~where], np.asarray(image.convert("RGB"))[~where])


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_jpeg_of_any_mode_becomes_rgb_as_pillow_converts_it(photo, mode, tmp_path):
    data = encode(photo.convert(mode), "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert same(decode_image(data, "a.jpg"), Image.open(tmp_path / "a.jpg").convert("RGB"))


def test_webp_becomes_rgb(photo):
    assert same(decode_image(encode(photo, "WEBP", lossless=True), "a.webp"), photo)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(photo, orientation):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose members that turn it the way it was stored
    stored = photo.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert same(decode_image(encode(stored, "PNG", exif=exif), "a.png"), photo)


def test_the_first_picture_of_a_phones_multi_picture_jpeg_is_the_photo(photo):
    data = encode(photo, "MPO", save_all=True, append_images=[photo.rotate(90)])
    assert decode_image(data, "a.jpg").size == photo.size


def refused(data: bytes, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=words) as error:
            decode_image(data, "photo.xyz")
    assert str(error.value).startswith("photo.xyz: ")
    assert "\n" not in str(error.value)


def test_empty_file_is_refused():
    refused(b"", "empty")


def test_text_is_not_a_picture():
    refused(b"not a picture at all, but long enough to be read as one" * 10, "not a readable")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GIF", "a GIF picture"),
        ("BMP", "a BMP picture"),
        ("TIFF", "a TIFF picture"),
        ("PPM", "not a readable JPEG, PNG"),
    ],
)
def test_other_formats_are_not_opened(photo, kind, words):
    refused(encode(photo, kind), words)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_truncated_picture_never_gets_through(photo, kind, part):
    data = encode(photo.resize((400, 300)), kind)
    with pytest.raises(ImageError, match="damaged"):
        decode_image(data[: int(len(data) * part)], "a")


def test_a_png_with_a_wrong_checksum_is_refused(photo):
    data = bytearray(encode(photo, "PNG"))
    at = data.index(b"IDAT") + 4 + int.from_bytes(data[data.index(b"IDAT") - 4 : data.index(b"IDAT")], "big")
    data[at] ^= 1
    refused(bytes(data), "damaged or truncated")


def test_animated_webp_and_png_are_refused(photo):
    frames = [photo.rotate(90), photo.rotate(180)]
    refused(encode(photo, "WEBP", save_all=True, append_images=frames), "animated")
    refused(encode(photo, "PNG", save_all=True, append_images=frames), "animated")


def test_sixteen_bits_a_colour_are_refused(photo):
    grey = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64))
    refused(encode(grey, "PNG"), "16 bits")
    refused(png(width=20, height=20, depth=16, colour=2, channels=3), "16 bits")


def test_under_16_pixels_is_refused(photo):
    refused(encode(photo.resize((15, 400)), "PNG"), "15 × 400")


def test_over_64_megapixels_is_refused_before_decoding():
    refused(png(width=9000, height=8000, depth=8, colour=0, channels=0), "9000 × 8000 pixels, more than 64")
    refused(png(width=60000, height=60000, depth=8, colour=0, channels=0), "megapixels")


def png(*, width: int, height: int, depth: int, colour: int, channels: int) -> bytes:
    """A PNG with this header; without channels it has no pixels."""
    rows = (b"\0" + bytes(width * channels * depth // 8)) * height if channels else b""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_over_20_megabytes_is_refused_before_decoding(tmp_path):
    refused(bytes(MAX_BYTES + 1), "larger than 20 MB")
    file = tmp_path / "big.jpg"
    file.write_bytes(b"")
    os.truncate(file, 5_000_000_000)
    with pytest.raises(ImageError, match="larger than 20 MB"):
        read_image_file(file)


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(ImageError, match="a directory"):
        read_image_file(tmp_path)


def test_a_fifo_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image_file(tmp_path / "fifo.jpg")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone.jpg: cannot be opened: No such file"):
        read_image_file(tmp_path / "gone.jpg")


@pytest.mark.parametrize("size", [(1600, 1201), (700, 903), (224, 4000), (6000, 100), (4000, 224)])
def test_rows_that_threads_share_are_resized_as_pillow_does_it(size, monkeypatch):
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    expected = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))
    for cores in (1, 2, 3, 4, 16):
        monkeypatch.setattr("skingpt_edge.runtime.image.logical_cpus", lambda cores=cores: cores)
        assert (resize(image, 224) == expected).all()


def test_pixels_are_resized_without_crop_and_normalised(photo):
    pixels = preprocess(photo, ImageSpec(28, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    assert pixels.shape == (1, 3, 28, 28)
    assert pixels.dtype == np.float32
    resized = np.asarray(photo.resize((28, 28), Image.Resampling.BICUBIC))
    assert np.allclose(pixels[0].transpose(1, 2, 0), (resized / 255 - 0.5) / 0.25, atol=1e-6)


def test_a_thumbnail_holds_no_metadata(photo):
    exif = Image.Exif()
    exif[0x010E] = "patient's name"
    made = thumbnail(encode(photo, "JPEG", exif=exif, comment=b"patient's name"), "a.jpg")
    assert b"patient" not in made
    assert not Image.open(io.BytesIO(made)).getexif()


def test_a_profile_that_changes_colours_by_one_level_at_most_is_srgb_and_keeps_the_bits(photo):
    near, far = (rgb_profile(BT709, replace(SRGB_CURVE, gamma=gamma)) for gamma in (2.42, 2.6))
    source = ImageCms.ImageCmsProfile(io.BytesIO(near))
    converted = ImageCms.profileToProfile(photo, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert np.abs(np.asarray(converted).astype(int) - np.asarray(photo)).max() == 1
    assert same(decode_image(encode(photo, "PNG", icc_profile=near), "a.png"), photo)
    assert not same(decode_image(encode(photo, "PNG", icc_profile=far), "a.png"), photo)


def written_png(kind: int, bits: int, rows: list[bytes], **chunks: bytes) -> bytes:
    """A PNG of these rows (8 pixels wide) with these chunks before the pixels, written as the specification says."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, len(rows), bits, kind, 0, 0, 0))]
    parts += [(name.encode(), body) for name, body in chunks.items()]
    parts += [(b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_level_that_is_transparent_is_hidden_at_any_depth(bits):
    hidden = 2**bits // 2  # a name written in it must not be seen
    shown = 0
    packed = int("".join(f"{level:0{bits}b}" for level in [hidden, shown] * 8), 2).to_bytes(2 * bits, "big")
    image = decode_image(written_png(0, bits, [packed] * 16, tRNS=struct.pack(">H", hidden)), "a.png")
    assert set(np.asarray(image)[:, ::2].ravel()) == {255}
    assert set(np.asarray(image)[:, 1::2].ravel()) == {0}


@pytest.mark.parametrize("transfer", [1, 6, 14, 15])
def test_a_video_frames_levels_are_shown_as_on_a_screen(transfer):
    """By ITU-R BT.1886, a power of 2.4: level 80 is (80 / 255) ** 2.4 of the light, sRGB's level 70."""
    tagged = written_png(2, 8, [bytes([80] * 48)] * 16, cICP=bytes((1, transfer, 0, 1)))
    assert np.abs(np.asarray(decode_image(tagged, "a.png")).astype(int) - 70).max() <= 1
