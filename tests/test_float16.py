"""Vision graphs that compute in float16: what is in them, and how close they stay to float32."""

import shutil
from dataclasses import fields, replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import to_array
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from skingpt_edge.benchmarks.measure.model_sizes import vision_sizes
from skingpt_edge.export.bundle_writer import TYPES
from skingpt_edge.export.demo.evaluate import evaluate
from skingpt_edge.export.demo.score import score
from skingpt_edge.export.graphs import export_graphs
from skingpt_edge.export.make import sample_pictures
from skingpt_edge.export.parity import COSINE, Picture, cosine, vision_reference
from skingpt_edge.export.quantise import PRECISIONS
from skingpt_edge.export.vision_model import VisionConfig, VisionModel
from skingpt_edge.runtime.bundle import default_bundle, hash_file, read_bundle
from skingpt_edge.runtime.manifest import MANIFEST, FileEntry, VisionPart
from skingpt_edge.runtime.skingpt import SkinGPT
from support import GOLDEN

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
GRAPHS = ("vision_encoder", "qformer")
LEAST = COSINE["f16"]
PICTURES = 12  # 40 take minutes


@pytest.fixture(scope="module")
def golden(make_bundle):
    return make_bundle("f16", "q8_0")


def test_every_precision_says_what_it_stores_and_computes_in(golden):
    assert TYPES.keys() == PRECISIONS.keys()
    vision = read_bundle(golden).manifest.vision
    assert (vision.precision, vision.weights, vision.arithmetic) == ("f16", "float16", "float16")


def typed(path):
    """A graph and the type of each of its values."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return graph, types | {weight.name: weight.data_type for weight in graph.initializer}


@pytest.mark.parametrize("name", GRAPHS)
def test_products_compute_in_float16_and_norms_in_float32(name, golden):
    graph, types = typed(golden / f"{name}.onnx")
    found: dict[str, set[int]] = {}
    for node in graph.node:
        floats = {types[value] for value in (*node.input, *node.output) if types[value] in (FLOAT, HALF)}
        if node.op_type != "Cast":
            assert len(floats) <= 1, f"{node.name} mixes types"  # a strongly typed network takes no such node
            found.setdefault(node.op_type, set()).update(floats)
    for product in ({"Conv", "MatMul", "MultiHeadAttention", "Gelu", "Split"} if name == "vision_encoder" else
                    {"MatMul", "MultiHeadAttention", "Gelu"}):  # fmt: skip
        assert found[product] == {HALF}, product
    assert found["LayerNormalization"] == {FLOAT}
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {FLOAT}


@pytest.mark.parametrize("name", GRAPHS)
def test_sums_along_the_layers_are_float32(name, golden):
    graph, types = typed(golden / f"{name}.onnx")
    weights = {weight.name for weight in graph.initializer}
    sums = [node for node in graph.node if node.op_type == "Add" and not weights & set(node.input)]
    layers = vision_sizes(read_bundle(golden))
    assert len(sums) == (
        2 * layers.depth if name == "vision_encoder" else 2 * layers.qformer_layers + len(layers.cross_layers)
    )
    assert {types[value] for node in sums for value in (*node.input, *node.output)} == {FLOAT}


@pytest.mark.parametrize("name", GRAPHS)
def test_each_weight_is_stored_once_in_the_type_it_is_used_in(name, golden, exact_bundle):
    graph, _ = typed(golden / f"{name}.onnx")
    exact, _ = typed(exact_bundle / f"{name}.onnx")
    weights = {weight.name: weight for weight in graph.initializer}
    assert sorted(tuple(weight.dims) for weight in exact.initializer) == sorted(
        tuple(weight.dims) for weight in weights.values()
    )
    assert not [node.name for node in graph.node if node.op_type == "Cast" and node.input[0] in weights]
    for node in graph.node:
        for value in set(node.input) & weights.keys():
            if node.op_type in ("MatMul", "Conv"):
                assert weights[value].data_type == HALF
    size, whole = ((folder / f"{name}.onnx.data").stat().st_size for folder in (golden, exact_bundle))
    assert size < 0.55 * whole


def test_other_precisions_hold_no_float16(exact_bundle, make_bundle):
    for folder in (exact_bundle, make_bundle("int8", "q8_0")):
        for name in GRAPHS:
            _, types = typed(folder / f"{name}.onnx")
            assert HALF not in types.values()


class MatMul(OpRun):
    def _run(self, a, b):
        return (np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype),)


class Gelu(OpRun):
    def _run(self, x, approximate):
        assert approximate == "none"
        return (torch.nn.functional.gelu(torch.from_numpy(x).float()).numpy().astype(x.dtype),)


class MultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, q, k, v, num_heads):
        heads = [torch.from_numpy(x).float().unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*heads)
        return (out.transpose(1, 2).flatten(2).numpy().astype(q.dtype),)


def rounded(path, inputs):
    """A graph's outputs where each float16 value is rounded to it: ONNX Runtime's CPU leaves most in float32.

    Products are summed in float32, as on a GPU.
    """
    evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[MatMul, Gelu, MultiHeadAttention])
    return dict(zip(evaluator.output_names, evaluator.run(None, inputs), strict=True))


def by_onnx_runtime(level):
    def run(path, inputs):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))

    return run


LEVELS = onnxruntime.GraphOptimizationLevel
WAYS = {
    "each value rounded": rounded,
    "ONNX Runtime": by_onnx_runtime(LEVELS.ORT_ENABLE_ALL),
    "ONNX Runtime, graph as it is": by_onnx_runtime(LEVELS.ORT_DISABLE_ALL),
}


def through(folder, run, pixels):
    """The stages of both graphs."""
    found = run(folder / "vision_encoder.onnx", {"pixels": pixels})
    return found | run(folder / "qformer.onnx", {"image_features": found["image_features"]})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ["00", "01", "02"])
def test_float16_stays_close_to_the_original(case, way, golden):
    expected = np.load(GOLDEN / "expected" / f"{case}.npz")
    found = through(golden, WAYS[way], expected["pixels"])
    for stage in ("image_features", "query_output", "image_embeds"):
        assert found[stage].dtype == np.float32
        assert cosine(found[stage], expected[stage]) >= LEAST, stage


MATRICES = {
    "vision_encoder": ("visual_encoder.blocks.{}.{}.weight", ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "qformer": (
        "Qformer.bert.encoder.layer.{}.{}.weight",
        ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
         "crossattention.self.query", "crossattention.self.key", "crossattention.self.value",
         "crossattention.output.dense", "intermediate_query.dense", "output_query.dense"),
    ),
}  # fmt: skip
"""Names of the matrices in the order in which a graph multiplies by them."""


def demonstration(bundle):
    """The demonstration model's vision chain in torch float32, its matrices as its int8 graphs hold them."""
    sizes = vision_sizes(bundle)
    config = VisionConfig(**{field.name: getattr(sizes, field.name) for field in fields(VisionConfig)})
    model = VisionModel(config)
    state = model.state_dict()
    for name, (pattern, parts) in MATRICES.items():
        graph = onnx.load(bundle.file(f"{name}.onnx")).graph
        weights = {weight.name: to_array(weight) for weight in graph.initializer}
        layers = config.depth if name == "vision_encoder" else config.qformer_layers
        names = [full for i in range(layers) for part in parts if (full := pattern.format(i, part)) in state]
        if name == "qformer":
            names.append("llama_proj.weight")
        found = {full: weights[full] for full in (f"model.{key}" for key in state) if full in weights}
        products = [node.input[1].removesuffix(".int8") for node in graph.node if node.op_type == "MatMulInteger"]
        for full, product in zip(names, products, strict=True):
            found[f"model.{full}"] = (weights[f"{product}.int8"] * weights[f"{product}.scale"]).T
        for full, value in found.items():
            state[full.removeprefix("model.")] = torch.from_numpy(np.array(value))
        if name == "vision_encoder":
            for i in range(config.depth):
                q_bias, _, v_bias = torch.from_numpy(weights[f"cat_{i + 1}"].copy()).chunk(3)
                state |= {f"visual_encoder.blocks.{i}.attn.{key}_bias": value
                          for key, value in (("q", q_bias), ("v", v_bias))}  # fmt: skip
    model.load_state_dict(state)
    return model.eval(), config


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demonstration bundle with graphs that compute in float16, and its vision chain in torch float32."""
    folder = tmp_path_factory.mktemp("demo") / "bundle"
    shutil.copytree(default_bundle(), folder)
    bundle = read_bundle(folder)
    vision, config = demonstration(bundle)
    for path in folder.glob("*.onnx*"):
        path.unlink()
    export_graphs(vision, config, "f16", folder)
    files = {path.name: FileEntry(path.stat().st_size, hash_file(path)) for path in folder.iterdir()
             if path.name != MANIFEST}  # fmt: skip
    part = VisionPart("vision_encoder.onnx", "qformer.onnx", "f16", *TYPES["f16"])
    (folder / MANIFEST).write_text(replace(bundle.manifest, vision=part, files=files).to_json())
    return folder, vision


@pytest.mark.parametrize("way", WAYS)
def test_float16_stays_close_on_the_demonstration_model(way, demo):
    folder, vision = demo
    for path in sample_pictures()[:2]:
        expected = vision_reference(vision, Picture(path.name, path.read_bytes()))
        found = through(folder, WAYS[way], expected["pixels"])
        for stage in ("image_features", "query_output", "image_embeds"):
            assert cosine(found[stage], expected[stage]) >= LEAST, (path.name, stage)


def test_float16_says_what_the_drawings_show(demo):
    with SkinGPT.open(demo[0]) as model:  # its self-test compares with what the int8 bundle computed
        found = score(evaluate(model, PICTURES, seed=7, drawings="easy").cases)
    with SkinGPT.open() as shipped:
        expected = score(evaluate(shipped, PICTURES, seed=7, drawings="easy").cases)
    assert found["attributes"].part >= 0.98
    assert found["condition"].right >= expected["condition"].right
