#!/bin/sh
# Builds llama.cpp's code for NVIDIA's GPUs, $BUILD/cuda/bin/libggml-cuda.so, from the sources that llama.sh has unpacked.
# NVIDIA's compiler comes from its wheels (cuda-tools.txt). The host's part is compiled by this system's g++.
# usage: INPUTS=... BUILD=... TOOLS=... JOBS=... [CUDA_ARCHITECTURES="80-real"] cuda.sh
set -eu
# GeForce RTX 20; RTX 30 and 40, A100; RTX 50. Code for 8.0 runs on all of 8.x.
architectures="${CUDA_ARCHITECTURES:-75-real 80-real 120a-real}"
# Only these can be told from each other when the library is loaded (engines/llama_cpp_library.py).
for architecture in $architectures; do
    echo "$architecture" | grep -Eqx '(7[5-9]|8[0-9]|9[0-9]|10[0-9]|11[0-9])-real|12[0-9]a-real' || {
        echo "CUDA_ARCHITECTURES has $architecture; known are such as 75-real, 90-real, 120a-real" >&2
        exit 1
    }
done
unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS PYTHONPATH PYTHONHOME MAKEFLAGS MFLAGS MAKELEVEL
export PATH="$TOOLS/bin:$PATH"

"$TOOLS/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-index --only-binary=:all: --require-hashes \
    --find-links "$INPUTS/cuda-tools" --find-links "$INPUTS/cuda-wheels" \
    --requirement "$(dirname "$0")/cuda-tools.txt" --requirement "$(dirname "$0")/cuda-wheels.txt"
toolkit=$(echo "$TOOLS"/lib/python3*/site-packages/nvidia/cu13)
# The names that a compiler and a linker look for; wheels hold no links.
ln -sfn lib "$toolkit/lib64"
for name in cublas cublasLt cudart; do
    ln -sf "lib$name.so.13" "$toolkit/lib/lib$name.so"
done

# No paths of this machine in the library.
unnamed="-ffile-prefix-map=$BUILD=/build -ffile-prefix-map=$toolkit=/cuda"
cmake -G Ninja -S "$(dirname "$0")/llama/cuda" -B "$BUILD/cuda" -DLLAMA_CPP="$BUILD/llama-cpp-python/vendor/llama.cpp" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DCMAKE_C_FLAGS="$unnamed" \
    -DCMAKE_CXX_FLAGS="$unnamed" -DCMAKE_CUDA_FLAGS="$(for flag in $unnamed; do printf ' -Xcompiler=%s' "$flag"; done)" \
    -DCMAKE_CUDA_COMPILER="$toolkit/bin/nvcc" -DCUDAToolkit_ROOT="$toolkit" \
    -DCMAKE_CUDA_ARCHITECTURES="$(echo "$architectures" | tr ' ' ';')" > "$BUILD/cuda.log"
ninja -j"$JOBS" -C "$BUILD/cuda" ggml-cuda >> "$BUILD/cuda.log"
