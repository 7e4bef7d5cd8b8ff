"""ONNX Runtime where it cannot start on a GPU: an error that names what is missing, never the CPU without a word.

ONNX Runtime's own fallback is real here. That it was built for CUDA, and that there is a GPU, is pretended.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
from skingpt_edge.engines import onnx_cuda, onnx_runtime
from skingpt_edge.engines.base import GraphSetup
from skingpt_edge.engines.errors import EngineError, EngineUnavailable
from skingpt_edge.engines.onnx_cuda_graph import OrtCudaGraph
from skingpt_edge.engines.onnx_runtime import OrtGraph
from skingpt_edge.runtime.bundle import default_bundle, read_bundle

ON_GPU = GraphSetup("onnxruntime", "cuda", threads=1)


class Pretending:
    """The installed ONNX Runtime, as if it had been built for CUDA and lay in another folder."""

    def __init__(self, folder):
        self.__file__ = str(folder / "onnxruntime" / "__init__.py")
        self.severities = []

    def __getattr__(self, name):
        return getattr(onnxruntime, name)

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def set_default_logger_severity(self, level):
        self.severities.append(level)


def any_library():
    """The path of one that this process has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if "/libm.so" in line)


@pytest.fixture
def pretending(tmp_path, monkeypatch):
    if "CUDA" in onnx_runtime.build():
        pytest.skip("this ONNX Runtime has CUDA")
    library = Pretending(tmp_path)
    monkeypatch.setattr(onnx_runtime, "import_onnxruntime", lambda: library)
    monkeypatch.setattr(onnx_cuda, "gpu_kind", lambda: ("a card", "sm89"))
    return library


@pytest.fixture(scope="module")
def graph():
    bundle = read_bundle(default_bundle())
    return bundle.file(bundle.manifest.vision.encoder)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("engine", [OrtGraph, OrtCudaGraph])
def test_a_missing_library_is_named_with_what_to_do(engine, pretending, graph):
    with pytest.raises(EngineUnavailable) as error:
        engine(graph, ON_GPU)
    assert str(error.value) == (
        f"onnxruntime {onnxruntime.__version__} cannot start on this GPU (libonnxruntime_providers_cuda.so: cannot "
        "open shared object file: No such file or directory): pip install 'onnxruntime-gpu[cuda,cudnn]', or ask for "
        "--vision-device cpu"
    )


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_where_no_library_is_missing_the_cpu_does_not_take_over_either(pretending, graph, tmp_path):
    (tmp_path / "onnxruntime/capi").mkdir(parents=True)
    place = tmp_path / "onnxruntime/capi" / onnx_cuda.PROVIDER_LIBRARY
    place.symlink_to(any_library())
    with pytest.raises(EngineUnavailable, match=r"cannot start on this GPU \(it does not say why\): ask for --vision"):
        OrtGraph(graph, ON_GPU)


class OnTheCpu:
    """A session of ONNX Runtime's that has CUDA, and gave every operator to the processor."""

    def __init__(self, *arguments, **more):
        more["providers"] = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(*arguments, **more)

    def __getattr__(self, name):
        return getattr(self._session, name)

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


@pytest.mark.parametrize("engine", [OrtGraph, OrtCudaGraph])
def test_without_cudnn_a_graph_is_not_opened(engine, pretending, graph, monkeypatch):
    monkeypatch.setattr(pretending, "InferenceSession", OnTheCpu, raising=False)
    monkeypatch.setattr(onnx_cuda, "check_operators", lambda *_: None)
    monkeypatch.setattr(onnx_cuda, "CUDNN", "libnothing.so.9")
    with pytest.raises(EngineUnavailable, match=r"cannot start on this GPU \(libnothing\.so\.9: cannot open"):
        engine(graph, ON_GPU)


@pytest.mark.parametrize("engine", [OrtGraph, OrtCudaGraph])
def test_operators_that_would_run_on_the_processor_are_named(engine, pretending, graph, monkeypatch):
    monkeypatch.setattr(pretending, "InferenceSession", OnTheCpu, raising=False)
    with pytest.raises(EngineUnavailable) as error:
        engine(graph, ON_GPU)
    for words in (
        "vision_encoder.onnx: ONNX Runtime lacks code for a GPU for ",
        " Conv, DynamicQuantizeLinear, ", ", MatMulInteger, ",
        ": make the bundle anew with --vision f16, or ask for --vision-device cpu",
    ):  # fmt: skip
        assert words in str(error.value)
    assert ("Shape" in str(error.value)) is False  # one engine may leave it there, the other's graph has none


def test_cudnn_that_is_missing_is_named(pretending, monkeypatch):
    monkeypatch.setattr(onnx_cuda, "CUDNN", "libnothing.so.9")
    with pytest.raises(EngineUnavailable, match=r"\(libnothing\.so\.9: cannot open .*\): pip install 'onnxruntime-gpu"):
        onnx_cuda.check_cudnn(pretending)
    monkeypatch.setattr(onnx_cuda, "CUDNN", any_library())
    onnx_cuda.check_cudnn(pretending)


def test_the_shape_of_a_batch_may_be_computed_on_the_processor():
    def session(*operators, provider="CPUExecutionProvider"):
        nodes = [SimpleNamespace(op_type=operator) for operator in operators]
        part = SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)
        return SimpleNamespace(get_provider_graph_assignment_info=lambda: [part])

    onnx_cuda.check_operators("a graph", session("Shape", "Concat"))
    onnx_cuda.check_operators("a graph", session("MatMul", provider="CUDAExecutionProvider"))
    with pytest.raises(EngineUnavailable, match="a GPU for Add, MatMul: "):
        onnx_cuda.check_operators("a graph", session("Shape", "MatMul", "Add"))
    with pytest.raises(EngineUnavailable, match="a GPU for Concat, Shape: "):
        onnx_cuda.check_operators("a graph", session("Shape", "Concat"), frozenset())


def test_libraries_among_pythons_packages_are_loaded(pretending, tmp_path, monkeypatch):
    folder = tmp_path / "nvidia/cu13/lib"
    folder.mkdir(parents=True)
    shutil.copy(any_library(), folder / "libcublas.so.13")
    (folder / "libcurand.so.10").write_text("no library")
    monkeypatch.syspath_prepend(tmp_path)
    onnx_cuda._load_from_packages.cache_clear()
    onnx_cuda.prepare(pretending)
    assert f"{folder}/libcublas.so.13" in Path("/proc/self/maps").read_text()
    assert pretending.severities == [4]
    onnx_cuda._load_from_packages.cache_clear()


OLD_DRIVER = (  # as onnxruntime-gpu 1.31.1 raised it
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:146 std::conditional_t<THRW, void, onnxruntime::"
    "common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, const char*, int) "
    "[with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> "
    "= void] CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1 ; hostname=vm ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=355 ; expr=f(); "
    "\n\n"
)
FEW_OPERATORS = (
    "This session cannot use the graph capture feature as requested by the user as all compute graph nodes have not "
    "been partitioned to the CUDAExecutionProvider"
)


@pytest.mark.parametrize(
    ("raised", "kind", "expected"),
    [
        (
            OLD_DRIVER,
            EngineUnavailable,
            f"onnxruntime {onnxruntime.__version__} cannot start on this GPU (CUDA failure 35: CUDA driver version is "
            "insufficient for CUDA runtime version): update NVIDIA's driver, or ask for --vision-device cpu",
        ),
        (
            OLD_DRIVER.replace("35: CUDA driver version is insufficient for CUDA runtime version", "2: out of memory"),
            EngineError,
            "vision_encoder.onnx: there is too little GPU memory to run it: ask for --vision-device cpu",
        ),
        (
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=vm",
            EngineError,
            "vision_encoder.onnx: there is too little GPU memory to run it: ask for --vision-device cpu",
        ),
        (
            "bfc_arena.cc:376 AllocateRawInternal Failed to allocate memory for requested buffer of size 2147483648",
            EngineError,
            "vision_encoder.onnx: there is too little GPU memory to run it: ask for --vision-device cpu",
        ),
        (
            FEW_OPERATORS,
            EngineUnavailable,
            "ONNX Runtime lacks code for a GPU for operators of this graph: make the bundle anew with --vision f16, "
            "or ask for --vision-device cpu",
        ),
    ],
)
def test_what_cuda_says_when_it_cannot_start_is_told_with_what_to_do(
    raised, kind, expected, pretending, graph, monkeypatch
):
    def refuse(*arguments, **more):
        raise RuntimeError(raised)

    monkeypatch.setattr(pretending, "InferenceSession", refuse, raising=False)
    with pytest.raises(EngineError) as error:
        OrtGraph(graph, ON_GPU)
    assert (type(error.value), str(error.value)) == (kind, expected)


def test_a_gpu_that_fails_later_is_told_in_cudas_words():
    error = onnx_runtime.failure("graph.onnx", "cuda", RuntimeError(OLD_DRIVER))
    assert str(error) == (
        "graph.onnx: ONNX Runtime failed: CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"
    )


def test_the_driver_is_asked_first(monkeypatch):
    def no_driver():
        raise EngineUnavailable("no driver")

    monkeypatch.setattr(onnx_cuda, "gpu_kind", no_driver)
    with pytest.raises(EngineUnavailable, match="no driver"):
        onnx_cuda.prepare(SimpleNamespace())
