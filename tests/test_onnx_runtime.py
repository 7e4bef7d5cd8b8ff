"""ONNX Runtime's products of 8-bit numbers: fast where the processor sums them exactly, exact everywhere."""

import numpy as np
import pytest
from skingpt_edge.engines import onnx_runtime, processor
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.runtime.bundle import default_bundle, read_bundle

SETUP = GraphSetup(engine="onnxruntime", device="cpu", threads=1)


@pytest.fixture
def become(tmp_path, monkeypatch):
    """Gives this machine a processor that says something else of itself."""

    def become(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
        processor.facts.cache_clear()

    yield become
    monkeypatch.undo()
    processor.facts.cache_clear()


def is_exact():
    """Whether the slower, exact product was asked for when the shipped vision encoder was opened."""
    try:
        return session().get_session_options().get_session_config_entry(onnx_runtime.EXACT_PRODUCTS) == "1"
    except RuntimeError:  # nothing was said about it
        return False


def session():
    bundle = read_bundle(default_bundle())
    return onnx_runtime.open_session(bundle.file(bundle.manifest.vision.encoder), SETUP)


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n", False),
        ("processor\t: 0\nflags\t\t: avx2 avx_vnni fma\n", False),
        ("processor\t: 0\nflags\t\t: avx2 avx512f avx512bw not_avx512_vnni\n", True),
        ("processor\t: 0\nmodel name\t: with avx512_vnni\n", True),
        ("", True),
    ],
)
def test_the_slower_product_is_used_where_the_fast_one_would_overflow_and_nowhere_else(text, exact, become):
    become(text)
    assert is_exact() is exact


def test_a_system_that_does_not_say_what_its_processor_has_gets_the_exact_product(become, tmp_path, monkeypatch):
    become("")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    processor.facts.cache_clear()
    assert is_exact()


@pytest.mark.skipif(not processor.flags() & onnx_runtime.VNNI, reason="needs a processor with VNNI")
def test_with_vnni_both_products_give_the_same(become):
    """Of a picture whose values reach the ends of their range."""
    pixels = np.random.default_rng(0).choice([-2.0, 2.0], (1, 3, 224, 224)).astype(np.float32)
    name = session().get_inputs()[0].name
    fast = session().run(None, {name: pixels})[0]
    become("")
    np.testing.assert_array_equal(session().run(None, {name: pixels})[0], fast)
