"""The whole chain, from the original's checkpoints through the command line, against the original's record."""

import json

import numpy as np
import pytest
from skingpt_edge.engines.base import EmbeddingSegment, TokenSegment
from skingpt_edge.engines.registry import open_language_model
from skingpt_edge.export.parity import cosine
from skingpt_edge.runtime.bundle import read_bundle
from skingpt_edge.runtime.options import Options
from skingpt_edge.runtime.skingpt import SkinGPT
from support import FORMAT_1, GOLDEN, language_setup, run

CASES = {"00": "00.jpg", "01": "01.png", "02": "02.png"}
STAGES = ("image_features", "query_output", "image_embeds", "first_logits")


def expected(case):
    turns = json.loads((GOLDEN / "expected" / f"{case}.json").read_text())
    return np.load(GOLDEN / "expected" / f"{case}.npz"), turns


@pytest.fixture(scope="module", params=CASES)
def traced(request, exact_bundle, tmp_path_factory):
    """The expected record of a case, and what `skingpt trace` gives for it."""
    arrays, turns = expected(request.param)
    target = tmp_path_factory.mktemp("trace")
    questions = [item for turn in turns for item in ("-q", turn["question"])]
    image = GOLDEN / "images" / CASES[request.param]
    result = run(
        "skingpt", "trace", image, *questions, "--bundle", exact_bundle, "-o", target,
        "--ignore-stop", "--max-new-tokens", "40",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return arrays, turns, np.load(target / "trace.npz"), json.loads((target / "trace.json").read_text())


def test_every_stage_equals_the_original(traced):
    arrays, _, found, _ = traced
    assert np.abs(found["pixels"] - arrays["pixels"]).max() <= 1e-6
    for stage in STAGES:
        assert found[stage].shape == arrays[stage].shape
        assert found[stage].dtype == np.float32
        assert np.abs(found[stage] - arrays[stage]).max() <= 1e-3, stage


def test_every_token_and_word_equals_the_original(traced):
    _, turns, _, document = traced
    assert len(document["turns"]) == len(turns)
    for found, turn in zip(document["turns"], turns, strict=True):
        assert found["question"] == turn["question"]
        assert found["prompt"] == turn["prompt"]
        assert found["segment_token_ids"] == turn["segment_token_ids"]
        assert found["token_ids"] == turn["greedy_token_ids"]
        assert found["text"] == turn["text"]


def test_a_follow_up_evaluates_only_what_is_new(traced):
    _, turns, _, document = traced
    for number, (found, turn) in enumerate(zip(document["turns"], turns, strict=True)):
        counts = found["prompt_tokens"]
        before, after = turn["segment_token_ids"]
        assert counts["evaluated"] + counts["reused"] == len(before) + 32 + len(after)
        # The image and all text before the answer are never computed again.
        previous = turns[number - 1]["segment_token_ids"] if number else [before, []]
        least = len(before) if number == 0 else len(before) + 32 + len(previous[1]) - 1
        assert counts["reused"] >= least


def test_another_picture_reuses_the_system_prompt(exact_bundle):
    with SkinGPT.open(exact_bundle, options=Options(prompt_snapshot=False)) as model:
        pictures = [(GOLDEN / "images" / name).read_bytes() for name in CASES.values()]
        answers = [model.ask(model.embed(data), "What is this?") for data in pictures]
    system = len(answers[0].segment_token_ids[0])
    assert answers[0].prefill.reused == 0
    assert [answer.prefill.reused for answer in answers[1:]] == [system, system]


@pytest.mark.parametrize(("precision", "least"), [("f16", 0.99999), ("int8", 0.999), ("int8-block", 0.999)])
def test_a_coarser_vision_precision_stays_close(precision, least, make_bundle):
    bundle = read_bundle(make_bundle(precision, "q8_0"))
    with SkinGPT.from_bundle(bundle) as model:
        for case, image in CASES.items():
            stages, _ = model.vision.stages((GOLDEN / "images" / image).read_bytes(), image)
            assert cosine(stages.image_embeds, expected(case)[0]["image_embeds"]) >= least


@pytest.mark.parametrize("kv_type", ["f16", "q8_0/f16", "q8_0"])
def test_q8_0_chooses_the_original_tokens_when_forced_along_them(kv_type):
    assert forced_along(kv_type) >= 0.90


def forced_along(kv_type):
    """The part of the original's tokens that q8_0 chooses after the original's own."""
    bundle = read_bundle(FORMAT_1)
    assert bundle.manifest.llm.type == "q8_0"
    flash_attention = kv_type != "q8_0/f16"
    setup = language_setup(
        context=1024, cells=1024, batch=512, threads=2, kv_type=kv_type, flash_attention=flash_attention
    )
    model = open_language_model(bundle.file("llm.gguf"), setup)
    agreed = []
    for case in CASES:
        arrays, turns = expected(case)
        for turn in turns:
            before, after = map(tuple, turn["segment_token_ids"])
            model.rewind(1, 0)
            model.evaluate([TokenSegment(1, 0, before)])
            model.evaluate([EmbeddingSegment(1, len(before), arrays["image_embeds"][0])])
            position, following = len(before) + 32, after
            for token in turn["greedy_token_ids"]:
                logits = model.evaluate([TokenSegment(1, position, following)])
                agreed.append(int(logits.argmax()) == token)
                position, following = position + len(following), (token,)
    model.close()
    assert len(agreed) == 240
    return np.mean(agreed)
