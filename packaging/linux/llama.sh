#!/bin/sh
# Builds llama.cpp with a backend for each kind of x86 processor, and puts its libraries into $BUILD/llama-cpp-python, the
# sources of its wheel. usage: INPUTS=... BUILD=... TOOLS=... JOBS=... [VARIANTS="sse42 haswell"] llama.sh
. "$(dirname "$0")/toolchain.sh"
# Of llama.cpp's kinds these are left out:
# - x64: everything else here needs SSE4.2;
# - cannonlake and cooperlake: few were sold, and they run skylakex and cascadelake; they can be asked for by name;
# - sapphirerapids: it has AMX, and CONTRIBUTING.md says why that is not used.
all="sse42 sandybridge ivybridge piledriver haswell alderlake skylakex cascadelake icelake zen4"
variants="${VARIANTS:-$all}"
source="$BUILD/llama-cpp-python"
unpack llama-cpp-python 'sdists/llama_cpp_python-*.tar.gz'
for change in "$(dirname "$0")"/llama/*.patch; do
    patch --silent -d "$source/vendor/llama.cpp" -p1 < "$change"
done

# ninja goes by times, and those in an archive are old: what was compiled of other sources must not stay.
sources=$(cat "$(dirname "$0")"/sdists.txt "$(dirname "$0")"/toolchain.sh "$(dirname "$0")"/llama/*.patch | sha256sum)
if [ "$sources" != "$(cat "$BUILD/.llama-sources" 2> /dev/null)" ]; then
    rm -rf "$BUILD/llama" "$BUILD/cuda"
    echo "$sources" > "$BUILD/.llama-sources"
fi

list="$source/vendor/llama.cpp/ggml/src/CMakeLists.txt"
for name in $variants; do
    sed -i -E "s/^( *)ggml_add_cpu_backend_variant\(($name) /\1GGML_ADD_CPU_BACKEND_VARIANT(\2 /" "$list"
    grep -q "GGML_ADD_CPU_BACKEND_VARIANT($name " "$list" || { echo "llama.cpp has no variant $name" >&2; exit 1; }
done
# CMake reads names of functions in either case; those in lower case are the ones that were not asked for.
sed -i -E '/^ *ggml_add_cpu_backend_variant\(/d' "$list"

cmake -G Ninja -S "$(dirname "$0")/llama" -B "$BUILD/llama" -DLLAMA_CPP="$source/vendor/llama.cpp" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_AR="$AR" -DCMAKE_RANLIB="$RANLIB" > "$BUILD/llama.log"
ninja -j"$JOBS" -C "$BUILD/llama" llama >> "$BUILD/llama.log"
# Its .gitignore would keep the libraries out of the wheel.
rm -rf "$source/llama_cpp/lib" "$source/.gitignore"
mkdir "$source/llama_cpp/lib"
cp "$BUILD/llama/bin/libllama.so" "$BUILD/llama/bin/libggml.so" "$BUILD/llama/bin/libggml-base.so" "$source/llama_cpp/lib"
for name in $variants; do
    cp "$BUILD/llama/bin/libggml-cpu-$name.so" "$source/llama_cpp/lib"
done
