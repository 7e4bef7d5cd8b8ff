#!/usr/bin/env bash
# Builds, checks and measures SkinGPT Edge on a bare machine with an NVIDIA GPU, without a network.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: benchmarks/tools/gpu.sh [--dry-cpu] FOLDER [STEP...]

FOLDER holds source distributions and wheels: llama-cpp-python's sdist, and all that this script installs (see
`packages` in it). It may also hold onnxruntime-gpu (vision on the GPU), nvidia-ml-py (GPU memory and energy) and
nvidia-cublas (where the CUDA toolkit has none). The machine needs Python, a C++ compiler and nvcc.

Steps, all of them in this order unless named. Each ends within LIMIT seconds. Give the same command again to go on
with a step that was cut off or failed; a finished step is not repeated:
  environment   a virtual environment from FOLDER
  llama         llama-cpp-python for this GPU only
  onnx          onnxruntime-gpu if FOLDER has it, else onnxruntime: vision then runs on the CPU
  bundles       synthetic bundles of full size
  parity        the bundles on the GPU against the CPU
  measure       skingpt-bench on each bundle
  merge         everything into WORK/gpu-results.json

--dry-cpu, or DEVICE=cpu: everything that a CPU can run, with the tiny bundle and the quick suite.
Variables: WORK (./gpu-work), DEVICE (cuda), SHAPES ("tiny 7b 13b"), SUITE (full), PYTHON (python3), LIMIT (570),
VENV (WORK/venv). A VENV that is given is used as it is, and nothing is installed into it.
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
    [[ ${#words[@]} -gt 0 ]] || fail "no FOLDER of source distributions and wheels was given: benchmarks/tools/gpu.sh --help"
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
    REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
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
    [[ $OWN_VENV == yes || -x $VENV/bin/python ]] || fail "VENV is $VENV, which has no bin/python"
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

# Runs a command for at most LIMIT seconds.
limited() {
    local code=0
    timeout "$LIMIT" "$@" || code=$?
    [[ $code -ne 124 ]] || fail "$1 was cut off after $LIMIT s: give the same command again to go on"
    return "$code"
}

# Runs the function step_NAME once, NAME being all before a "-", with the rest as its argument. A marker says it finished.
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

# What is imported to make bundles and to measure them.
packages=(numpy Pillow simplejpeg torch transformers optimum optimum-onnx onnx onnxscript onnx-ir gguf sentencepiece safetensors
    tqdm diskcache Jinja2 typing_extensions)

step_environment() {
    "$PYTHON" -m venv "$VENV"
    limited pip install --constraint "$REPOSITORY/constraints.txt" scikit-build-core cmake ninja "${packages[@]}"
    ! compgen -G "$FOLDER/nvidia_cublas*.whl" >/dev/null || pip install --no-deps "$FOLDER"/nvidia_cublas*.whl
    pip install nvidia-ml-py || say "FOLDER has no nvidia-ml-py: GPU memory and energy will not be measured"
    limited pip install --no-build-isolation --no-deps "$REPOSITORY"
}

# If Python's packages have cuBLAS and the toolkit has none, gives their libraries the names that a linker looks for.
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
    local sdists=("$FOLDER"/llama_cpp_python-*.tar.gz)
    [[ -e ${sdists[0]} && ${#sdists[@]} -eq 1 ]] || fail "$FOLDER should hold one llama_cpp_python-*.tar.gz"
    # CMake recognises its build folder by the path of the source, so neither may move between runs.
    if [[ ! -e $WORK/llama-source/.unpacked ]]; then
        mkdir -p "$WORK/llama-source"
        tar -xzf "${sdists[0]}" -C "$WORK/llama-source" --strip-components=1
        touch "$WORK/llama-source/.unpacked"
    fi
    local flags="-DGGML_NATIVE=on" no_amx="-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    if grep -q amx_int8 /proc/cpuinfo; then # as in the Makefile
        flags="-DGGML_NATIVE=off"
        export CFLAGS=$no_amx CXXFLAGS=$no_amx
    fi
    if [[ $DEVICE == cuda ]]; then
        offer_cublas
        # GGML_CUDA_NO_VMM: linking then needs no libcuda.so, which a bare machine may lack.
        flags="-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=$CAPABILITY -DGGML_CUDA_NO_VMM=on $flags"
    fi
    CMAKE_ARGS=$flags CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) limited pip wheel --no-build-isolation --no-deps \
        --config-settings=build-dir="$WORK/llama-build" --wheel-dir "$WORK/wheels" "$WORK/llama-source"
    pip install --no-deps --force-reinstall "$WORK"/wheels/llama_cpp_python-*.whl
}

step_onnx() {
    local package=onnxruntime
    [[ $DEVICE == cpu ]] || ! compgen -G "$FOLDER/onnxruntime_gpu-*.whl" >/dev/null || package=onnxruntime-gpu
    limited pip install "$package"
}

step_bundles() {
    limited python -m skingpt_edge.export.cli synth --shape "$1" --force -o "$WORK/bundle-$1"
}

# The device of vision: the GPU only if this onnxruntime can use it, because asking for more is an error.
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
    limited python -m skingpt_edge.benchmarks.tools.device_parity "$WORK/bundle-$1" --device-a cpu --device-b "$DEVICE" \
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

work, kinds = pathlib.Path(sys.argv[1]), ("parity", "results")
found = {kind: [json.loads(path.read_text()) for path in sorted(work.glob(f"{kind}-*.json"))] for kind in kinds}
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
        *) if [[ $OWN_VENV == yes ]]; then once "$step"; else say "$step: VENV was given and is used as it is"; fi ;;
        esac
    done
}

main "$@"
