"""Photos as they really come, and what each should give: the rows of `data/photos/index.tsv` and `made/index.tsv`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skingpt_edge.engines.errors import ImageError
from skingpt_edge.runtime.cli.arguments import UsageError
from skingpt_edge.runtime.cli.diagnose import read_questions
from skingpt_edge.runtime.image import Photo, decode_photo, resize, thumbnail
from skingpt_edge.runtime.image_notes import SIDE, quality_notes
from support import DATA, encode, run

PHOTOS = DATA / "photos"
MADE = PHOTOS / "made"


def rows(folder: Path) -> Iterator[tuple[Path, str]]:
    for line in (folder / "index.tsv").read_text().splitlines()[1:]:
        name, expect, _ = line.split("\t")
        yield folder / name, expect


ROWS = [*rows(PHOTOS), *rows(MADE)]
PICTURES = [(path, expect) for path, expect in ROWS if path.suffix != ".txt"]
TEXTS = [(path, expect) for path, expect in ROWS if path.suffix == ".txt"]


def decode(path: Path) -> Photo:
    return decode_photo(path.read_bytes(), path.name)


def notes(photo: Photo) -> set[str]:
    return {note.code for note in photo.notes + quality_notes(photo.image.size, resize(photo.image, SIDE))}


def difference(one: Image.Image, other: Image.Image) -> float:
    """The largest of the channels' mean absolute differences."""
    assert one.size == other.size
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(other)).mean((0, 1)).max())


def on_white(path: Path) -> Image.Image:
    levels = np.asarray(Image.open(path).convert("RGBA")).astype(float)
    alpha = levels[..., 3:] / 255
    return Image.fromarray((levels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8))


def check_refused(path: Path, words: str) -> None:
    with pytest.raises(ImageError) as error:
        decode(path)
    message = str(error.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    assert error.value.exit_code == 3
    assert re.sub(r"^(says|names) (a )?", "", words).lower() in message.lower()


@pytest.mark.parametrize(("path", "expect"), PICTURES, ids=lambda value: getattr(value, "name", ""))
def test_each_case_gives_what_its_row_says(path, expect):
    if expect.startswith(("refused", "answered or refused")):
        # Rows that leave a choice: a picture without its end is refused, as what is missing cannot be known.
        check_refused(path, expect.partition(": ")[2])
        return
    photo = decode(path)
    shown, _, note = expect.partition("; note")
    assert note.strip() in ("", *notes(photo))
    assert bool(notes(photo)) or "; note" not in expect
    words = shown.split()
    if words[0] == "like":
        assert difference(photo.image, decode(path.with_name(words[1])).image) <= float(words[2])
    elif words[0] == "unlike":
        assert difference(photo.image, decode(path.with_name(words[1])).image) > float(words[2])
    elif shown == "composed on white":
        assert difference(photo.image, on_white(path)) < 0.6
    elif shown == "exactly as stored":
        assert difference(photo.image, Image.open(path).convert("RGB")) == 0
    else:
        assert shown == "answered"


@pytest.mark.parametrize(("path", "expect"), TEXTS, ids=lambda value: getattr(value, "name", ""))
def test_each_file_of_questions_gives_what_its_row_says(path, expect):
    if expect == "refused: says UTF-8":
        with pytest.raises(UsageError, match="UTF-8"):
            read_questions(path)
    else:
        assert expect == "read as two questions"
        assert len(read_questions(path)) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_questions_are_read_in_what_editors_save(tmp_path, encoding):
    file = tmp_path / "questions.txt"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    file.write_bytes((mark + "What is this?\r\nIs it ähnlich?\r\n").encode(encoding))
    assert [question.question for question in read_questions(file)] == ["What is this?", "Is it ähnlich?"]


def test_the_lists_name_every_file_of_their_folders():
    for folder in (PHOTOS, MADE):
        tools = {"index.tsv", "make.sh", "chunks.py"}
        assert {path.name for path in folder.iterdir() if path.is_file()} - tools == {p.name for p, _ in rows(folder)}


def test_what_is_hidden_under_transparency_reaches_neither_model_nor_page():
    path = PHOTOS / "alpha_erased_name.png"
    levels = np.array(Image.open(path).convert("RGBA"))
    hidden = levels[..., 3] == 0
    assert levels[hidden].any()
    levels[hidden] = 0
    clean = encode(Image.fromarray(levels), "PNG")
    assert difference(decode(path).image, decode_photo(clean, "clean").image) == 0
    assert thumbnail(path.read_bytes(), path.name) == thumbnail(clean, "clean")


def test_the_command_answers_and_refuses_as_the_rows_say(tmp_path):
    questions = tmp_path / "questions.txt"
    questions.write_text("What is this?\n")
    pictures = [path for path, _ in PICTURES]
    result = run("skingpt", "diagnose", *pictures, "--json", "--questions", questions, "--max-new-tokens", "1")
    assert result.returncode == 3
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["image"]["name"] for document in documents] == [path.name for path in pictures]
    for (path, expect), document in zip(PICTURES, documents, strict=True):
        assert ("error" in document) == ("refused" in expect), path.name
        if "note" in expect and "error" not in document:
            assert {note["code"] for note in document["image"]["notes"]} == notes(decode(path))


def test_text_tags_of_exif_never_change_a_picture(photo):
    """Every other byte of the EXIF but the orientation's entry may hold anything."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x011A] = "a description of some length", 6, 72.0
    data = encode(photo, "JPEG", exif=exif, quality=95)
    expected = np.asarray(decode_photo(data, "a").image)
    begin = data.index(b"Exif\0\0") + 6
    entry = data.index(b"\x01\x12\x00\x03", begin)
    end = data.index(b"\xff\xdb", begin)
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        at = int(random.integers(begin + 10, end))
        if not entry <= at < entry + 12:
            changed[at] = int(random.integers(256))
        assert np.array_equal(np.asarray(decode_photo(bytes(changed), "a").image), expected)


def test_notes_stand_in_text_page_json_and_trace(tmp_path):
    page, dark = tmp_path / "page.html", MADE / "dark.png"
    words = "The picture is very dark."
    shown = run("skingpt", "diagnose", dark, "--html", page, "--max-new-tokens", "1")
    assert shown.stdout.lstrip().startswith(f"Note: {words}")
    assert f'<div class="picture-note">{words}' in page.read_text()
    asked = run("skingpt", "chat", dark, "-q", "What is this?", "--max-new-tokens", "1")
    assert asked.stdout.lstrip().startswith(f"Note: {words}")
    traced = run("skingpt", "trace", dark, "-q", "What is this?", "-o", tmp_path / "t", "--max-new-tokens", "1")
    assert traced.returncode == 0
    found = json.loads((tmp_path / "t" / "trace.json").read_text())["image"]["notes"]
    assert "dark" in [note["code"] for note in found]
    assert sorted(np.load(tmp_path / "t" / "trace.npz")) == [
        "first_logits", "image_embeds", "image_features", "pixels", "query_output",
    ]  # fmt: skip


def test_no_output_takes_the_place_of_an_input_or_another_file(tmp_path):
    picture, questions = tmp_path / "photo.html", tmp_path / "questions.html"
    picture.write_bytes((PHOTOS / "base.png").read_bytes())
    questions.write_text("What is this?\n")
    other = tmp_path / "other.jpg"
    other.write_bytes((PHOTOS / "base.jpg").read_bytes())
    linked = tmp_path / "same.html"
    linked.hardlink_to(picture)
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "trace.npz").hardlink_to(picture)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in (
        ("diagnose", picture, "--html", picture),
        ("diagnose", picture, "--html", linked),
        ("diagnose", picture, "--questions", questions, "--html", questions),
        ("diagnose", picture, "--html", other),
        ("trace", picture, "-q", "x", "-o", folder),
        ("trace", picture, "-q", "x", "-o", other),
    ):
        result = run("skingpt", *command)
        assert result.returncode == 2, command
        assert "give another name" in result.stderr
        assert "Traceback" not in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
