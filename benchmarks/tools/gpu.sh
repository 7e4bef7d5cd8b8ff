#!/usr/bin/env bash
# Builds, checks and measures SkinGPT Edge on a bare machine with an NVIDIA GPU, without a network.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: benchmarks/tools/gpu.sh [--dry-cpu] FOLDER [STEP...]

FOLDER holds what the machine lacks: wheels, llama-cpp-python's sdist, archives site-*.tar.* of packages. What the
machine has, such as torch with its CUDA libraries, is used as it is. Give the step `collect` once for each load of
files; a file too large for one load comes in parts (python benchmarks/tools/gpu_setup.py split FILE FOLDER).

Steps, all of them in this order unless named. Each command ends within LIMIT seconds. Give the same command again to go on
with a step that was cut off or failed; a finished step is not repeated:
  collect       copies FOLDER into WORK/input and joins what came in parts
  environment   installs the wheels into WORK/site, beside the machine's own packages
  llama         llama.cpp for this GPU only, or checks LLAMA_LIBS
  bundles       synthetic bundles; `golden` is made of the tests' checkpoint
  parity        golden, demonstration and float16 bundle on the GPU against the CPU, and which is nearer to float32
  vision        encoder and Q-Former alone, by each engine that the device has, on each of SHAPES
  measure       skingpt-bench on each of SHAPES
  merge         everything into WORK/gpu-results.json

--dry-cpu, or DEVICE=cpu: everything that a CPU can run, with the tiny bundle and the quick suite.
Variables: WORK (./gpu-work), DEVICE (cuda), SHAPES ("7b"), VISION (f16), LLM_TYPE (q4_k_m), SUITE (quick),
BASELINE (torch), PYTHON (python3), LIMIT (570), LLAMA_LIBS (a folder with libllama.so and libggml*.so, built before).
TEXT
}

fail() {
    echo "error: $*" >&2
    exit 2
}

say() { echo "== $*" >&2; }

ALL_STEPS=(collect environment llama bundles parity vision measure merge)

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
    SUITE=${SUITE:-quick}
    BASELINE=${BASELINE-torch}
    VISION=${VISION:-f16}
    LLM_TYPE=${LLM_TYPE:-q4_k_m}
    if [[ $DEVICE == cpu ]]; then
        SHAPES=${SHAPES:-tiny}
    else
        SHAPES=${SHAPES:-7b}
        check_gpu
    fi
    WORK=${WORK:-gpu-work}
    mkdir -p "$WORK"
    WORK=$(cd "$WORK" && pwd)
    export PYTHONPATH=$WORK/site${PYTHONPATH:+:$PYTHONPATH}
    export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 ORT_DISABLE_TELEMETRY=1 HF_HUB_OFFLINE=1
    local cuda
    cuda=$(setup cuda-folders)
    [[ -z $cuda ]] || export LD_LIBRARY_PATH=$cuda${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    [[ -z ${LLAMA_LIBS:-} ]] || LLAMA_LIBS=$(cd "$LLAMA_LIBS" && pwd)
    use_llama "${LLAMA_LIBS:-$WORK/llama-libs}"
}

# llama-cpp-python then takes its library from a folder, if it is there.
use_llama() {
    [[ ! -d $1 ]] || export LLAMA_CPP_LIB_PATH=$1 LD_LIBRARY_PATH=$1${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

setup() { "$PYTHON" "$REPOSITORY/benchmarks/tools/gpu_setup.py" "$@"; }

check_gpu() {
    command -v nvidia-smi >/dev/null || fail "no NVIDIA driver: nvidia-smi is not on PATH; give --dry-cpu without a GPU"
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

step_collect() { setup collect "$FOLDER" "$WORK/input"; }

step_environment() {
    mkdir -p "$WORK/site"
    local wheels=("$WORK"/input/*.whl)
    if [[ -e ${wheels[0]} ]]; then
        limited "$PYTHON" -m pip install --quiet --no-deps --upgrade --target "$WORK/site" "${wheels[@]}"
    fi
    for archive in "$WORK"/input/site-*.tar.*; do
        [[ ! -e $archive ]] || tar -xf "$archive" -C "$WORK/site"
    done
    setup link "$REPOSITORY" "$WORK/site"
    setup packages
}

# The Python files of llama-cpp-python, unless the machine has them.
llama_package() {
    has_llama && return
    setup unpack-llama "$(llama_sdist)" "$WORK/site"
}

has_llama() { "$PYTHON" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("llama_cpp") is None)'; }

llama_sdist() {
    local sdists=("$WORK"/input/llama_cpp_python-*.tar.gz)
    [[ -e ${sdists[0]} && ${#sdists[@]} -eq 1 ]] || fail "$WORK/input should hold one llama_cpp_python-*.tar.gz"
    echo "${sdists[0]}"
}

step_llama() {
    local cuda=()
    [[ $DEVICE == cpu ]] || cuda=(--cuda)
    if [[ -z ${LLAMA_LIBS:-} && $DEVICE == cpu ]] && has_llama; then
        say "llama: the machine's own"
    else
        [[ -n ${LLAMA_LIBS:-} ]] || build_llama
        use_llama "${LLAMA_LIBS:-$WORK/llama-libs}"
        setup check-libraries "$LLAMA_CPP_LIB_PATH" "${cuda[@]}"
        llama_package
    fi
    "$PYTHON" -c 'import llama_cpp; print(llama_cpp.llama_print_system_info().decode())' >&2
}

build_llama() {
    # CMake recognises its build folder by the path of the source, so neither may move between runs.
    if [[ ! -e $WORK/llama-source/.unpacked ]]; then
        mkdir -p "$WORK/llama-source"
        tar -xzf "$(llama_sdist)" -C "$WORK/llama-source" --strip-components=1
        touch "$WORK/llama-source/.unpacked"
    fi
    local flags=(-DGGML_NATIVE=ON) no_amx="-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
    if grep -q amx_int8 /proc/cpuinfo; then # as in the Makefile
        flags=(-DGGML_NATIVE=OFF "-DCMAKE_C_FLAGS=$no_amx" "-DCMAKE_CXX_FLAGS=$no_amx")
    fi
    if [[ $DEVICE == cuda ]]; then
        local toolkit=${CUDA_HOME:-/usr/local/cuda}/bin
        [[ -n $(command -v nvcc) || ! -x $toolkit/nvcc ]] || PATH=$toolkit:$PATH
        command -v nvcc >/dev/null || fail "no CUDA compiler: nvcc is neither on PATH nor in $toolkit;" \
            "install the CUDA toolkit, or give LLAMA_LIBS"
        offer_cublas
        # GGML_CUDA_NO_VMM: linking then needs no libcuda.so, which a bare machine may lack.
        flags+=(-DGGML_CUDA=ON "-DCMAKE_CUDA_ARCHITECTURES=$CAPABILITY" -DGGML_CUDA_NO_VMM=ON)
    fi
    offer_libstdcxx
    for part in TESTS TOOLS EXAMPLES SERVER COMMON; do flags+=("-DLLAMA_BUILD_$part=OFF"); done
    limited cmake -S "$WORK/llama-source/vendor/llama.cpp" -B "$WORK/llama-build" -G Ninja \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON "-DCMAKE_SHARED_LINKER_FLAGS=-L$WORK/libstdcxx" "${flags[@]}"
    limited cmake --build "$WORK/llama-build" -j "$(nproc)"
    mkdir -p "$WORK/llama-libs"
    cp -a "$WORK"/llama-build/bin/lib*.so* "$WORK/llama-libs/"
}

# Where only a static libstdc++ has the name that a linker looks for, it would get into the library.
offer_libstdcxx() {
    local shared
    shared=$(ldconfig -p | awk '/libstdc\+\+\.so\.6/ { print $NF; exit }')
    [[ -n $shared ]] || fail "no libstdc++.so.6 in the system's libraries"
    mkdir -p "$WORK/libstdcxx"
    ln -sf "$shared" "$WORK/libstdcxx/libstdc++.so"
}

# If Python's packages have cuBLAS and the toolkit has none, gives their libraries the names that a linker looks for.
offer_cublas() {
    local toolkit libraries=""
    toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
    [[ ! -e $toolkit/lib64/libcublas.so ]] || return 0
    local folders
    IFS=: read -ra folders <<<"$(setup cuda-folders)"
    for folder in "${folders[@]}"; do
        ! compgen -G "$folder/libcublas.so.*" >/dev/null || libraries=$folder
    done
    [[ -n $libraries ]] || { say "no cuBLAS beside nvcc nor among Python's packages: CMake may find one" && return 0; }
    say "cuBLAS of $libraries"
    mkdir -p "$WORK/cublas"
    for name in cublas cublasLt; do
        ln -sf "$(compgen -G "$libraries/lib$name.so.*" | head -n 1)" "$WORK/cublas/lib$name.so"
    done
    export CMAKE_LIBRARY_PATH=$WORK/cublas CPLUS_INCLUDE_PATH=$libraries/../include
}

export_cli() { limited "$PYTHON" -m skingpt_edge.export.cli "$@"; }

step_bundles() {
    local golden=$REPOSITORY/tests/data/golden/checkpoint
    case $1 in
    golden) # judged on the GPU, not here
        export_cli bundle --vit "$golden/eva_vit_g.pth" --qformer "$golden/blip2_pretrained.pth" \
            --adapter "$golden/skingpt4.pth" --llm "$golden/llm" --vision "$VISION" --llm-type f16 --force \
            -o "$WORK/bundle-golden"
        ;;
    float16) export_cli synth --shape tiny --vision "$VISION" --llm-type f16 --force -o "$WORK/bundle-float16" ;;
    *) export_cli synth --shape "$1" --vision "$VISION" --llm-type "$LLM_TYPE" --force -o "$WORK/bundle-$1" ;;
    esac
}

step_parity() {
    local bundle=$WORK/bundle-$1 other=()
    if [[ $1 == demo ]]; then
        bundle=$REPOSITORY/runtime/demo/bundle
        other=(--vision-device-b cpu) # its vision is int8, which no GPU computes
    fi
    [[ $DEVICE == cuda ]] || other+=(--threads-b 1 --kv-type-b f16) # the device is the same, the order of the sums is not
    limited "$PYTHON" -m skingpt_edge.benchmarks.tools.device_parity "$bundle" --device-a cpu --device-b "$DEVICE" \
        --truth "${other[@]}" -o "$WORK/parity-$1.json" ||
        fail "parity of $1 is past its limits, or could not be measured: see above and $WORK/parity-$1.json;" \
            "the steps measure and merge can be run all the same"
}

step_vision() {
    limited "$PYTHON" -m skingpt_edge.benchmarks.tools.vision_calls "$WORK/bundle-$1" --device "$DEVICE" \
        -o "$WORK/vision-$1.json" ||
        fail "no engine could run the vision of $1: see above; the steps measure and merge can be run all the same"
}

step_measure() {
    local more=()
    [[ $DEVICE == cpu ]] || more=(--device cuda)
    [[ -z $BASELINE ]] || more+=(--baseline "$BASELINE")
    limited "$PYTHON" -m skingpt_edge.benchmarks.cli run "$WORK/bundle-$1" --suite "$SUITE" "${more[@]}" \
        -o "$WORK/results-$1.json"
}

step_merge() {
    "$PYTHON" - "$WORK" <<'PYTHON'
import json, pathlib, sys

work, kinds = pathlib.Path(sys.argv[1]), ("parity", "vision", "results")
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
        bundles) for shape in golden float16 $SHAPES; do once "bundles-$shape"; done ;;
        parity) for shape in golden demo float16; do once "parity-$shape"; done ;;
        vision | measure) for shape in $SHAPES; do once "$step-$shape"; done ;;
        collect | merge) say "$step" && "step_$step" ;; # each time, because there may be more
        *) once "$step" ;;
        esac
    done
}

main "$@"
