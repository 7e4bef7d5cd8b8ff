"""Values of a wrong type or range: each is named at the border, in the field's own error."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skingpt_edge.runtime import (
    BundleError,
    GenerationConfig,
    ImageEmbedding,
    ImageError,
    InputError,
    Options,
    Question,
    QuestionError,
    SkinGPT,
    Turn,
)
from skingpt_edge.runtime.machine import logical_cpus
from support import ROOT, run

PICTURES = [path.read_bytes() for path in sorted((ROOT / "runtime/demo/pictures").glob("*.jpg"))[:2]]
SHORT = GenerationConfig(max_new_tokens=8)
NO_WHOLE_NUMBER = (2.5, "3", None, True, [1], float("nan"), np.float32(2), np.bool_(True), b"1")
NO_NUMBER = ("0.5", None, True, [0.5], 1j, b"1", 10**400)
NO_TEXT = (None, 5, b"What is this?", ["What is this?"], float("nan"))


@pytest.fixture(scope="module")
def model():
    with SkinGPT.open(options=Options(threads=1)) as model:
        yield model


@pytest.fixture(scope="module")
def image(model):
    return model.embed(PICTURES[0])


@pytest.mark.parametrize("value", NO_WHOLE_NUMBER, ids=repr)
def test_what_is_no_whole_number_is_refused(value):
    for name in ("max_new_tokens", "seed"):
        with pytest.raises(InputError, match=f"^{name} is .*, expected a whole number$"):
            GenerationConfig(**{name: value})
    for name in ("threads", "conversations", "image_cache", "batch", "context", "samples", "gpu_layers"):
        if value is None and getattr(Options, name) is None:
            assert getattr(Options(**{name: None}), name) is None  # left open
            continue
        with pytest.raises(InputError, match=f"^{name} is .*, expected a whole number$"):
            Options(**{name: value})


@pytest.mark.parametrize("value", NO_NUMBER, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_is_refused(value):
    for name in ("temperature", "top_p"):
        with pytest.raises(InputError, match=f"^{name} is .*, expected a number$"):
            GenerationConfig(**{name: value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1, 101])
def test_a_number_out_of_range_is_refused(value):
    for name, expected in (("temperature", "0 to 100"), ("top_p", "above 0 and at most 1")):
        with pytest.raises(InputError, match=f"^{name} is {value}, expected {expected}$"):
            GenerationConfig(**{name: value})


def test_numpys_numbers_become_pythons():
    config = GenerationConfig(np.int64(5), np.float32(0.5), np.float64(1), np.uint32(7))
    assert config == GenerationConfig(5, 0.5, 1.0, 7)
    assert [type(value) for value in (config.max_new_tokens, config.temperature, config.seed)] == [int, float, int]
    assert type(Options(threads=np.int32(1)).threads) is int


@pytest.mark.parametrize("value", [5, b"cpu", ["cpu"], True], ids=repr)
def test_a_name_that_is_no_text_is_refused(value):
    for name in ("device", "vision_device", "vision_engine", "language_engine", "kv_type", "layout"):
        with pytest.raises(InputError, match=f"^{name} is .*, expected str$"):
            Options(**{name: value})


@pytest.mark.parametrize("value", [0, 1, "yes", None], ids=repr)
def test_a_switch_that_is_no_bool_is_refused(value):
    for name in ("tuning", "huge_pages", "prompt_snapshot"):
        with pytest.raises(InputError, match=f"^{name} is .*, expected bool$"):
            Options(**{name: value})
    with pytest.raises(InputError, match=r"^ignore_stop is .*, expected bool$"):
        GenerationConfig(ignore_stop=value)


@pytest.mark.parametrize("path", ["", 5, b"bundle", True, "a\0b", [], 0], ids=repr)
def test_a_path_that_is_none_is_refused_and_is_not_the_demonstration(path):
    with pytest.raises(InputError, match=r"the bundle's path is .*, expected a folder"):
        SkinGPT.open(path)


def test_a_path_may_be_of_any_path_class(tmp_path):
    class Folder(os.PathLike):
        def __fspath__(self):
            return str(tmp_path)

        __str__ = __fspath__

    with pytest.raises(BundleError, match=r"bundle\.json"):
        SkinGPT.open(Folder())


@pytest.mark.parametrize("arguments", [("diagnose", "x.jpg", "--bundle", ""), ("info", ""), ("verify", "")])
def test_an_empty_path_on_the_command_line_is_wrong_usage(arguments):
    result = run("skingpt", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert "the path of the bundle is empty" in result.stderr


@pytest.mark.parametrize("options", [{"threads": 1}, "cpu", 5], ids=repr)
def test_options_of_another_class_are_refused(options):
    with pytest.raises(InputError, match=r"options is .*, expected Options"):
        SkinGPT.open(options=options)


@pytest.mark.parametrize("config", [{"seed": 1}, 300, "greedy", {}], ids=repr)
def test_a_config_of_another_class_is_refused(model, image, config):
    for ask in (model.ask, lambda *a: next(model.stream(*a)), lambda *a: model.samples(*a, 2)):
        with pytest.raises(InputError, match=r"config is .*, expected GenerationConfig"):
            ask(image, "What?", config)


@pytest.mark.parametrize("question", NO_TEXT, ids=repr)
def test_a_question_that_is_no_text_is_refused(model, image, question):
    for ask in (
        lambda: model.ask(image, question, SHORT),
        lambda: next(model.stream(image, question, SHORT)),
        lambda: model.first_logits(image, question),
        lambda: model.samples(image, question, GenerationConfig(8, 1.0), 2),
        lambda: model.conversation(image).prompt_length(question),
        lambda: model.report(image, (Question("Cause", question),)),
    ):
        with pytest.raises(QuestionError, match=r"the question is .*, expected text"):
            ask()


@pytest.mark.parametrize("questions", [("What?",), "What?", 5, [None]], ids=repr)
def test_questions_of_another_class_are_refused(model, image, questions):
    with pytest.raises(QuestionError, match=r"questions is .*, expected a tuple of Question"):
        model.report(image, questions)


def test_a_question_with_a_nul_or_other_controls_is_answered(model, image):
    for question in ("What\0is this?", "</s>", "\u202ewhat"):
        assert model.ask(image, question, SHORT).text


@pytest.mark.parametrize(
    "turns",
    [
        None, 5, "What?", [("What?", "Red.")], ["What?"], [Turn(None, "Red.")], [Turn("What?", None)],
        [Turn("What?", (1.5,))], [Turn("What?", (True,))], [Turn("What?", b"Red.")], [Turn(5, "Red.")],
    ],
    ids=repr,
)  # fmt: skip
def test_turns_that_are_none_are_refused(model, image, turns):
    with pytest.raises(QuestionError, match=r"^turn"):
        model.conversation(image, turns)


@pytest.mark.parametrize("count", [2.0, "2", None, True, 0, -1, 101], ids=repr)
def test_a_count_of_samples_that_is_none_is_refused(model, image, count):
    with pytest.raises(InputError, match="samples is"):
        model.samples(image, "What?", GenerationConfig(8, 1.0), count)


@pytest.mark.parametrize("data", [None, "photo.jpg", 5, [1, 2], Path("photo.jpg"), True, np.zeros(4)], ids=repr)
def test_what_is_no_bytes_is_no_picture(model, data):
    with pytest.raises(ImageError, match="expected the bytes of an image file"):
        model.embed(data)
    with pytest.raises(InputError, match="name is"):
        model.embed(PICTURES[0], data if not isinstance(data, str) else None)


def test_any_kind_of_bytes_is_a_picture_and_is_read_once(model, image):
    changing = bytearray(PICTURES[0])
    for data in (changing, memoryview(PICTURES[0])):
        found = model.embed(data)
        assert found.sha256 == hashlib.sha256(PICTURES[0]).hexdigest()
        assert np.array_equal(found.embeds, image.embeds)


def test_what_embed_returns_cannot_be_changed(model):
    image = model.embed(PICTURES[0])
    with pytest.raises(ValueError, match="WRITEABLE"):
        image.embeds.flags.writeable = True
    with pytest.raises(ValueError, match="read-only"):
        image.embeds[:] = 0
    base = image.embeds
    while isinstance(base, np.ndarray):
        assert not base.flags.writeable
        base = base.base
    assert isinstance(base, bytes)
    model._images.clear()
    first = model.embed(PICTURES[0])
    first.seconds.clear()
    assert set(model.embed(PICTURES[0]).seconds) == {"image_decode", "preprocess", "vision_encoder", "qformer"}


SHAPES = {
    "NaN": (lambda embeds: np.where(embeds > 1, np.nan, embeds).astype(np.float32), "holds NaN or infinity"),
    "infinity": (lambda embeds: np.where(embeds > 1, np.inf, embeds).astype(np.float32), "holds NaN or infinity"),
    "a row less": (lambda embeds: embeds[1:], r"float32 \(31, 256\), expected float32 \(32, 256\)"),
    "too narrow": (lambda embeds: embeds[:, :9], r"float32 \(32, 9\), expected"),
    "a batch": (lambda embeds: embeds[None], r"float32 \(1, 32, 256\), expected"),
    "float64": (lambda embeds: embeds.astype(np.float64), r"float64 \(32, 256\), expected"),
    "a list": (lambda embeds: embeds.tolist(), "the embedding is list, expected"),
    "nothing": (lambda embeds: None, "the embedding is NoneType, expected"),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_an_own_embedding_that_cannot_be_one_is_said_to_be_wrong_and_not_the_bundle(model, image, kind):
    change, message = SHAPES[kind]
    with pytest.raises(ImageError, match=f"mine: the embedding .*{message}|mine: the embedding is {message}|{message}"):
        model.ask(replace(image, embeds=change(image.embeds), name="mine"), "What?", SHORT)


@pytest.mark.parametrize("image", [None, PICTURES[0], "photo.jpg"], ids=lambda value: type(value).__name__)
def test_what_is_no_embedding_is_refused(model, image):
    with pytest.raises(ImageError, match="expected what `embed` returns"):
        model.ask(image, "What?", SHORT)


def test_an_embedding_under_another_pictures_sha256_gets_its_own_answer(model, image):
    other = model.embed(PICTURES[1])
    expected = [model.ask(one, "What is this?").text for one in (image, other)]
    assert expected[0] != expected[1]
    model.ask(image, "What is this?")
    false = ImageEmbedding(other.embeds, image.sha256, "false name")
    answer = model.ask(false, "What is this?")
    assert answer.text == expected[1]
    assert model.ask(image, "What is this?").text == expected[0]


def test_an_embedding_that_is_changed_after_it_was_handed_in_changes_no_answer(model, image):
    own = np.array(image.embeds)
    conversation = model.conversation(ImageEmbedding(own, "0" * 64, "mine"))
    own[:] = 0
    assert conversation.ask("What is this?").text == model.ask(image, "What is this?").text


@pytest.mark.parametrize("name", ["threads", "vision_threads", "prefill_threads"])
def test_more_threads_than_this_machine_has_are_refused(name):
    with pytest.raises(InputError, match=f"^{name} is {logical_cpus() + 1}, but this machine has {logical_cpus()} pro"):
        SkinGPT.open(options=Options(**{name: logical_cpus() + 1}))
    with SkinGPT.open(options=Options(**{name: logical_cpus()})):
        pass


def test_more_threads_than_this_machine_has_end_a_command_with_a_line():
    for command in (
        ("info", "--json"),
        ("chat", ROOT / "runtime/demo/pictures/01-velora-light-skin.jpg", "-q", "What?"),
    ):
        result = run("skingpt", *command, "--threads", "1024")
        assert (result.returncode, result.stdout) == (3, "")
        assert result.stderr.startswith("error: threads is 1024, but this machine has ")
        assert len(result.stderr.splitlines()) == 1


def test_switches_and_handlers_of_a_wrong_kind_are_refused(model, image):
    config = GenerationConfig(4, temperature=1.0)
    calls = {
        "cancel": lambda: model.ask(image, "What?", config, cancel=True),
        "together": lambda: model.samples(image, "What?", config, 2, together="no"),
        "verify": lambda: SkinGPT.open(verify="no"),
        "progress": lambda: SkinGPT.open(progress=3),
        "bundle": lambda: SkinGPT.from_bundle("bundle/"),
        "questions": lambda: model.report(image, ()),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match=f"^{name} is "):
            call()
