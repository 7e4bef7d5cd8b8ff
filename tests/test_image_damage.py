"""Damaged photos: none ends or holds up the process, and what can be found is refused."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from skingpt_edge.benchmarks.tools.mutate_photos import MUTATIONS, mutated, outcome, plan, run_share
from skingpt_edge.engines.errors import ImageError
from skingpt_edge.runtime.image import decode_image, decode_photo, resize
from skingpt_edge.runtime.image_notes import UNCHECKED
from skingpt_edge.runtime.jpeg_file import MAX_SCANS
from skingpt_edge.runtime.prepared_photo import prepare_photo
from support import DATA, encode

MADE = DATA / "photos" / "made"
PHOTOS = [MADE / name for name in ("ok_420.jpg", "ok_progressive.jpg", "icc_table.png", "alpha_name.webp")]


def test_damaged_photos_end_no_process():
    found = run_share(plan(PHOTOS, 100, seed=7))
    assert len(found) == 100
    assert found.count("refused") > 50


@pytest.mark.parametrize("how", MUTATIONS)
def test_no_damage_to_a_png_is_answered_unless_nothing_changed(how):
    """Every byte of a PNG stands under a checksum, but those behind its end."""
    path = MADE / "icc_table.png"
    assert {outcome(path.read_bytes(), mutated(path.read_bytes(), how, seed)) for seed in range(40)} <= {
        "refused",
        "same",
    }


def scene(**options: object) -> bytes:
    random = np.random.default_rng(0)
    return encode(Image.fromarray(random.integers(0, 256, (240, 320, 3), np.uint8)), "JPEG", **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
def test_half_a_jpeg_is_refused_even_with_a_proper_end_mark(options, part):
    data = scene(**options)
    with pytest.raises(ImageError, match="a part of its data is missing"):
        decode_image(data[: int(len(data) * part)] + b"\xff\xd9", "a.jpg")


def test_padding_before_the_end_mark_is_no_damage_and_left_over_codes_are():
    data = scene()
    for padding in (b"\0" * 50, b"\x7f", b"\xaa" * 3):
        decode_image(data[:-2] + padding + b"\xff\xd9", "a.jpg")
    for left in (b"\1\2\3", b"\0" * 500):
        with pytest.raises(ImageError, match="extraneous"):
            decode_image(data[:-2] + left + b"\xff\xd9", "a.jpg")


@pytest.mark.parametrize("filler", [0, 0x55])
@pytest.mark.parametrize("quality", [75, 95, 100])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_part_left_as_zeros_is_found_though_an_end_mark_follows(filler, quality, part):
    """As a full disk or a broken copy leaves it: many zeros are valid codes for flat blocks."""
    data = scene(quality=quality)
    cut = int(len(data) * part)
    with pytest.raises(ImageError, match="a part of its data is missing"):
        decode_image(data[:cut] + bytes([filler]) * (len(data) - 2 - cut) + b"\xff\xd9", "a.jpg")


def same(one: bytes, other: bytes) -> bool:
    return np.array_equal(*(np.asarray(decode_image(data, "a.jpg")) for data in (one, other)))


def changed_scan(data: bytes, values: bytes) -> bytes:
    """A baseline JPEG whose scan names another range of coefficients, as some Samsung phones write."""
    at = data.index(b"\xff\xda")
    first = at + 5 + 2 * data[at + 4]
    return data[:first] + values + data[first + 3 :]


@pytest.mark.parametrize("values", [b"\0\0\0", b"\0\x40\0", b"\0\x3f\1"])
def test_a_phones_meaningless_values_are_no_damage(values):
    data = scene()
    assert same(changed_scan(data, values), data)


@pytest.mark.parametrize("transform", [2, 7])
def test_an_unknown_adobe_transform_is_no_damage(transform):
    data = scene()
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    assert same(data[:2] + adobe + data[2:], data)
    assert same(data[:2] + b"\xff\xee\0\x07Adobe" + data[2:], data)


def test_a_motion_photos_video_is_not_looked_at():
    video = np.random.default_rng(0).bytes(9_000_000)  # holds what looks like hundreds of scans
    data = scene()
    assert same(data + video, data)


def test_a_photo_is_read_where_no_thread_can_be_had(monkeypatch):
    data = scene()
    expected = prepare_photo(data, "a.jpg", 224)

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert (prepare_photo(data, "a.jpg", 224).pixels == expected.pixels).all()
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8))
    assert resize(large, 224).shape == (224, 224, 3)
    with pytest.raises(ImageError, match="damaged"):
        prepare_photo(data[: len(data) // 2] + b"\xff\xd9", "a.jpg", 224)


def test_a_rare_subsampling_is_read_with_a_note():
    photo = decode_photo((MADE / "ok_310.jpg").read_bytes(), "a.jpg")
    assert photo.notes == (UNCHECKED,)
    assert np.asarray(photo.image).std() > 5


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    data = scene(progressive=True)
    begin = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans"):
        decode_image(data[:begin] + data[begin:-2] * MAX_SCANS + b"\xff\xd9", "a.jpg")


def test_a_large_picture_needs_less_than_a_gigabyte():
    """64 megapixels with a profile and transparency: decoded, converted and composed."""
    code = (
        "import io;"
        "from PIL import Image;"
        "from skingpt_edge.runtime.image import decode_image;"
        f"profile = Image.open({str(MADE / 'icc_AdobeRGB1998.png')!r}).info['icc_profile'];"
        "picture = Image.new('RGBA', (8000, 8000), (200, 100, 50, 128));"
        "file = io.BytesIO();"
        "picture.save(file, 'PNG', compress_level=1, icc_profile=profile);"
        "del picture;"
        "assert decode_image(file.getvalue(), 'a').size == (8000, 8000);"
        # Of this process alone: getrusage would begin with the peak of the process that started it.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 1_000_000  # kB
