"""The demonstration model is trained, saved and exported by the code that makes the real one, only for less long."""

import json

import numpy as np
import pytest
import torch
from skingpt_edge.engines.errors import ExportError
from skingpt_edge.export.demo.checkpoint import checkpoints_in
from skingpt_edge.export.demo.labelled_drawings import HEADS
from skingpt_edge.export.demo.make_demo import Plan, make_demo_model
from skingpt_edge.export.demo.train_language import whole_text
from skingpt_edge.export.demo.train_vision import CONFIG, Phase, VisionWithHeads
from skingpt_edge.export.torch_engines import open_original
from skingpt_edge.export.vision_weights import read_vision
from skingpt_edge.runtime.bundle import read_bundle
from skingpt_edge.runtime.sampling import GenerationConfig
from skingpt_edge.runtime.skingpt import SkinGPT
from support import CHECKPOINT, GOLDEN

SHORT = Plan(
    phases=(Phase("windows", 256, 8, 64, 2e-3), Phase("pictures", 64, 16, 32, 1e-3)), seen=64, steps=10, pictures=2
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "model"
    make_demo_model(folder, plan=SHORT, accept_parity=True)
    return folder


def test_it_learns(made):
    points = json.loads((made / "curve.json").read_text())
    assert [point["phase"] for point in points] == ["windows", "pictures", "language", "language"]
    assert points[1]["loss"] < points[0]["loss"]
    assert points[1]["accuracy"].keys() == {*HEADS, "all"}
    assert points[3]["loss"] < points[2]["loss"] < np.log(1024) + 0.5
    assert (made / "learning-curve.png").stat().st_size > 10_000


def test_what_is_saved_is_the_original_layout(made):
    checkpoints = checkpoints_in(made / "checkpoint")
    config, tensors = read_vision(checkpoints.vit, checkpoints.qformer, checkpoints.adapter)
    assert config == CONFIG
    vit = torch.load(checkpoints.vit, weights_only=True)
    assert vit["blocks.4.mlp.fc1.weight"].dtype == torch.float16  # one block more than is used
    assert vit["pos_embed"].dtype == torch.float32
    llama = json.loads((checkpoints.llm / "config.json").read_text())
    assert all(llama[name] % 256 == 0 for name in ("hidden_size", "intermediate_size"))
    model = VisionWithHeads()
    model.load_state_dict(torch.load(made / "vision.pt", weights_only=True))
    trained = model.vision.visual_encoder.blocks[0].attn.qkv.weight
    assert torch.equal(tensors["visual_encoder.blocks.0.attn.qkv.weight"], trained.half())


def test_the_bundle_was_made_by_the_exporter_from_these_files(made):
    manifest = read_bundle(made / "bundle").manifest
    assert [source.role for source in manifest.provenance.sources] == ["vit", "qformer", "adapter", "llm", "llm"]
    assert manifest.parity is not None
    assert manifest.parity.stages["image_embeds"].cosine > 0.999


def test_a_folder_with_content_is_refused_and_an_interrupted_run_goes_on(made):
    with pytest.raises(ExportError, match="not empty"):
        make_demo_model(made, plan=SHORT)
    before = (made / "vision.pt").stat().st_mtime_ns
    (made / "language.pt").unlink()
    first = torch.load(made / "checkpoint" / "skingpt4.pth", weights_only=True)["model"]
    make_demo_model(made, resume=True, plan=SHORT, accept_parity=True)
    points = [(point["phase"], point["pictures"]) for point in json.loads((made / "curve.json").read_text())]
    assert len(points) == len(set(points)) == 4
    again = torch.load(made / "checkpoint" / "skingpt4.pth", weights_only=True)["model"]
    assert (made / "vision.pt").stat().st_mtime_ns == before
    assert all(torch.equal(first[name], again[name]) for name in first)  # the seed gives the same model


def test_the_same_seed_gives_the_same_model(made, tmp_path):
    make_demo_model(tmp_path / "again", plan=SHORT, accept_parity=True)
    for name in ("vision.pt", "language.pt"):
        first, again = (torch.load(folder / name, weights_only=True) for folder in (made, tmp_path / "again"))
        assert all(torch.equal(first[key], again[key]) for key in first), name


def test_the_prompt_that_is_learned_is_the_prompt_that_is_asked():
    with SkinGPT.open() as model:
        path = GOLDEN / "images/00.jpg"
        talk = model.conversation(model.embed(path.read_bytes()))
        first = talk.ask("What is this?", GenerationConfig(max_new_tokens=8))
        second = talk.ask("What causes it?", GenerationConfig(max_new_tokens=8))
    before, after = whole_text([("What is this?", first.original_text), ("What causes it?", "because")])
    assert f"{before}<ImageHere>{after}".startswith(second.prompt)


def test_the_original_in_torch_behind_the_runtime_gives_the_recorded_tokens(exact_bundle):
    config = GenerationConfig(max_new_tokens=40, ignore_stop=True)
    with open_original(checkpoints_in(CHECKPOINT), read_bundle(exact_bundle)) as model:
        for case, name in {"00": "00.jpg", "01": "01.png", "02": "02.png"}.items():
            talk = model.conversation(model.embed((GOLDEN / "images" / name).read_bytes()))
            for turn in json.loads((GOLDEN / "expected" / f"{case}.json").read_text()):
                assert list(talk.ask(turn["question"], config).token_ids) == turn["greedy_token_ids"]
