#!/usr/bin/env bash
# Builds, checks and measures SkinGPT Edge on a bare machine with an NVIDIA GPU, without a network.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: benchmarks/gpu.sh [--dry-cpu] FOLDER [STEP...]

FOLDER holds source distributions and wheels: llama-cpp-python's sdist and all that this script installs (see
`packages` in it), and if wanted onnxruntime-gpu, for vision on the GPU, nvidia-ml-py, for its memory and energy, and
nvidia-cublas, where the CUDA toolkit has none. The machine needs Python, a C++ compiler and nvcc.

Steps, all of them in this order unless named. Each ends within LIMIT seconds; one that was cut off or failed goes on
when the same command is given again, one that is finished is not repeated:
  environment   a virtual environment from FOLDER
  llama         llama-cpp-python for this GPU only
  onnx          onnxruntime-gpu if FOLDER has it, else onnxruntime: vision then runs on the CPU
  bundles       synthetic bundles of full size
  parity        the bundles on the GPU against the CPU
  measure       skingpt-bench on each bundle
  merge         everything into WORK/gpu-results.json

--dry-cpu, or DEVICE=cpu: all that a CPU can run, with the device cpu, the tiny bundle and the quick suite.
Variables: WORK (./gpu-work), DEVICE (cuda), SHAPES ("tiny 7b 13b"), SUITE (full), PYTHON (python3), LIMIT (570),
VENV (WORK/venv; one that exists is used as it is, nothing is installed into it).
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

say() { echo "== $*" >&2; }

ALL_STEPS=(environment llama onnx bundles parity measure merge)

parse() {
    DEVICE=${DEVICE:-cuda}
    local words=()
    for word in "$@"; do
        case $word in
        -h | --help) usage && exit 0 ;;
        --dry-cpu) DEVICE=cpu ;;
        -*) fail "unknown option $word; known are --dry-cpu, --help" ;;
        *) words+=("$word") ;;
        esac
    done
    [[ ${#words[@]} -gt 0 ]] || fail "no FOLDER of source distributions and wheels was given: benchmarks/gpu.sh --help"
    [[ -d ${words[0]} ]] || fail "${words[0]}: no such folder; it should hold source distributions and wheels"
    [[ $DEVICE == cuda || $DEVICE == cpu ]] || fail "DEVICE is $DEVICE; known are cuda, cpu"
    FOLDER=$(cd "${words[0]}" && pwd)
    STEPS=("${words[@]:1}")
    [[ ${#STEPS[@]} -gt 0 ]] || STEPS=("${ALL_STEPS[@]}")
    for step in "${STEPS[@]}"; do
        [[ " ${ALL_STEPS[*]} " == *" $step "* ]] || fail "unknown step $step; known are ${ALL_STEPS[*]}"
    done
}

settle() {
    REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    PYTHON=${PYTHON:-python3}
    LIMIT=${LIMIT:-570}
    if [[ $DEVICE == cpu ]]; then
        SHAPES=${SHAPES:-tiny}
        SUITE=${SUITE:-quick}
    else
        SHAPES=${SHAPES:-tiny 7b 13b}
        SUITE=${SUITE:-full}
        check_gpu
    fi
    WORK=${WORK:-gpu-work}
    mkdir -p "$WORK"
    WORK=$(cd "$WORK" && pwd)
    OWN_VENV=no
    [[ -n ${VENV:-} ]] || { VENV=$WORK/venv && OWN_VENV=yes; }
    export PATH=$VENV/bin:$PATH PIP_NO_INDEX=1 PIP_FIND_LINKS=$FOLDER PIP_DISABLE_PIP_VERSION_CHECK=1
    export ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
    [[ ! -e $WORK/cublas/path ]] || LD_LIBRARY_PATH=$(cat "$WORK/cublas/path")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    [[ -z ${LD_LIBRARY_PATH:-} ]] || export LD_LIBRARY_PATH
}

check_gpu() {
    local toolkit=${CUDA_HOME:-/usr/local/cuda}/bin
    [[ -n $(command -v nvcc) || ! -x $toolkit/nvcc ]] || PATH=$toolkit:$PATH
    command -v nvcc >/dev/null || fail "no CUDA compiler: nvcc is neither on PATH nor in $toolkit;" \
        "install the CUDA toolkit, or give --dry-cpu"
    command -v nvidia-smi >/dev/null || fail "no NVIDIA driver: nvidia-smi is not on PATH"
    CAPABILITY=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
    [[ $CAPABILITY =~ ^[0-9]+$ ]] || fail "nvidia-smi gives no compute capability, but '$CAPABILITY'"
}

# Runs a command that may be cut off; what it leaves behind is there when it is run again.
limited() {
    local code=0
    timeout "$LIMIT" "$@" || code=$?
    [[ $code -ne 124 ]] || fail "$1 was cut off after $LIMIT s: give the same command again to go on"
    return "$code"
}

# Runs the function of the same name (before a -) once: a marker is left when it has finished.
once() {
    local marker=$WORK/done-$1
    if [[ -e $marker ]]; then
        say "$1: done before"
    else
        say "$1"
        "step_${1%%-*}" "${1#*-}"
        touch "$marker"
    fi
}

# What making bundles and measuring them imports.
packages=(numpy Pillow torch transformers optimum optimum-onnx onnx onnxscript onnx-ir gguf sentencepiece safetensors
    tqdm diskcache Jinja2 typing_extensions)

step_environment() {
    if [[ $OWN_VENV == no ]]; then
        [[ -x $VENV/bin/python ]] || fail "VENV is $VENV, which has no bin/python"
        return
    fi
    "$PYTHON" -m venv "$VENV"
    limited pip install --constraint "$REPOSITORY/constraints.txt" scikit-build-core cmake ninja "${packages[@]}"
    ! compgen -G "$FOLDER/nvidia_cublas*.whl" >/dev/null || pip install --no-deps "$FOLDER"/nvidia_cublas*.whl
    pip install nvidia-ml-py || say "FOLDER has no nvidia-ml-py: GPU memory and energy will not be measured"
    limited pip install --no-build-isolation --no-deps "$REPOSITORY"
}

# Where the toolkit has no cuBLAS but Python's packages do, gives their libraries the names a linker looks for.
offer_cublas() {
    local toolkit libraries
    toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    [[ ! -e $toolkit/lib64/libcublas.so ]] || return 0
    for interpreter in "$VENV/bin/python" "$PYTHON"; do
        libraries=$("$interpreter" -c '
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
for place in spec.submodule_search_locations if spec else ():
    for found in pathlib.Path(place).glob("*/lib/libcublas.so.*"):
        print(found.parent)' | head -n 1)
        [[ -z $libraries ]] || break
    done
    [[ -n $libraries ]] || { say "no cuBLAS beside nvcc nor among Python's packages: CMake may find one" && return 0; }
    say "cuBLAS of $libraries"
    mkdir -p "$WORK/cublas"
    for name in cublas cublasLt; do
        ln -sf "$(compgen -G "$libraries/lib$name.so.*" | head -n 1)" "$WORK/cublas/lib$name.so"
    done
    echo "$libraries" >"$WORK/cublas/path"
    export CMAKE_LIBRARY_PATH=$WORK/cublas CPLUS_INCLUDE_PATH=$libraries/../include LD_LIBRARY_PATH=$libraries
}

step_llama() {
    [[ $OWN_VENV == yes ]] || { say "VENV was given: its llama-cpp-python is used" && return; }
    local sdists=("$FOLDER"/llama_cpp_python-*.tar.gz)
    [[ -e ${sdists[0]} && ${#sdists[@]} -eq 1 ]] || fail "$FOLDER should hold one llama_cpp_python-*.tar.gz"
    # CMake knows its build folder by the path of the source, so both stay where they are between the runs.
    if [[ ! -e $WORK/llama-source/.unpacked ]]; then
        mkdir -p "$WORK/llama-source"
        tar -xzf "${sdists[0]}" -C "$WORK/llama-source" --strip-components=1
        touch "$WORK/llama-source/.unpacked"
    fi
    local flags="-DGGML_NATIVE=on"
    if [[ $DEVICE == cuda ]]; then
        offer_cublas
        # Without its memory pool of the driver's, so that the link needs no libcuda.so, which a bare machine may lack.
        flags="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=$CAPABILITY -DGGML_CUDA_NO_VMM=on $flags"
    fi
    CMAKE_ARGS=$flags CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) limited pip wheel --no-build-isolation --no-deps \
        --config-settings=build-dir="$WORK/llama-build" --wheel-dir "$WORK/wheels" "$WORK/llama-source"
    pip install --no-deps --force-reinstall "$WORK"/wheels/llama_cpp_python-*.whl
}

step_onnx() {
    [[ $OWN_VENV == yes ]] || { say "VENV was given: its onnxruntime is used" && return; }
    if [[ $DEVICE == cuda ]] && compgen -G "$FOLDER/onnxruntime_gpu-*.whl" >/dev/null; then
        limited pip install onnxruntime-gpu
    else
        limited pip install onnxruntime
    fi
}

step_bundles() {
    limited python -m skingpt_edge.export.cli synth --shape "$1" --force -o "$WORK/bundle-$1"
}

# Vision runs on the GPU only where this onnxruntime can; asking for it anywhere else is an error.
vision_device() {
    if [[ $DEVICE == cuda ]] && python -c '
import onnxruntime, sys
sys.exit("CUDAExecutionProvider" not in onnxruntime.get_available_providers())'; then
        echo cuda
    else
        echo cpu
    fi
}

step_parity() {
    local vision other=()
    vision=$(vision_device)
    [[ $vision == "$DEVICE" ]] || say "this onnxruntime has no CUDA: vision runs on the CPU, the language model on the GPU"
    [[ $DEVICE == cuda ]] || other=(--threads-b 1) # the device is the same, the order of the sums is not
    limited python -m skingpt_edge.benchmarks.gpu_parity "$WORK/bundle-$1" --device-a cpu --device-b "$DEVICE" \
        --vision-device-b "$vision" "${other[@]}" -o "$WORK/parity-$1.json" ||
        fail "parity of $1 is past its limits, or could not be measured: see above and $WORK/parity-$1.json;" \
            "the steps measure and merge can be run all the same"
}

step_measure() {
    local devices=()
    [[ $DEVICE == cpu ]] || devices=(--device cuda --vision-device "$(vision_device)")
    limited python -m skingpt_edge.benchmarks.cli run "$WORK/bundle-$1" --suite "$SUITE" "${devices[@]}" \
        -o "$WORK/results-$1.json"
}

step_merge() {
    python - "$WORK" <<'PYTHON'
import json, pathlib, sys

work = pathlib.Path(sys.argv[1])
found = {
    kind: [json.loads(path.read_text()) for path in sorted(work.glob(f"{kind}-*.json"))]
    for kind in ("parity", "results")
}
if not found["results"]:
    sys.exit("error: nothing to merge: run the step measure first")
(work / "gpu-results.json").write_text(json.dumps({"schema": "skingpt-gpu/1", **found}, indent=1) + "\n")
PYTHON
    say "$WORK/gpu-results.json"
}

main() {
    parse "$@"
    settle
    for step in "${STEPS[@]}"; do
        case $step in
        bundles | parity | measure) for shape in $SHAPES; do once "$step-$shape"; done ;;
        merge) say merge && step_merge ;;
        *) once "$step" ;;
        esac
    done
}

main "$@"
