# Sourced by python.sh and llama.sh: a C and C++ compiler for x86-64 from SSE4.2 on and glibc 2.28, which is Clang with the
# headers and symbols of that glibc. BUILD is the folder that all is built in, TOOLS the virtual environment with ziglang.
set -eu
zig=$(echo "$TOOLS"/lib/python3*/site-packages/ziglang/zig)
export ZIG_GLOBAL_CACHE_DIR="$BUILD/zig-cache" ZIG_LOCAL_CACHE_DIR="$BUILD/zig-cache"
mkdir -p "$BUILD/bin"
# Each is there at once and whole, because both scripts may run at the same time.
compiler() {
    cat > "$BUILD/bin/$1.$$"
    chmod +x "$BUILD/bin/$1.$$"
    mv "$BUILD/bin/$1.$$" "$BUILD/bin/$1"
}
for name in cc c++; do
    # No paths of this machine in the libraries, and no checks for undefined behaviour, which zig adds by itself.
    printf '#!/bin/sh\nexec "%s" %s -target x86_64-linux-gnu.2.28 -mcpu=x86_64_v2 -g0 -fno-sanitize=undefined %s "$@"\n' \
        "$zig" "$name" "-ffile-prefix-map=$BUILD=/build" | compiler "$name"
done
for name in ar ranlib; do
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" "$name" | compiler "$name"
done
# By name alone: OpenSSL and Python write down what they were compiled with.
export CC=cc CXX=c++ AR=ar RANLIB=ranlib
export PATH="$BUILD/bin:$TOOLS/bin:$PATH"
# The variables of our Makefile are not those of other Makefiles.
unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS PYTHONPATH PYTHONHOME MAKEFLAGS MFLAGS MAKELEVEL

# Sources, unpacked into a new folder of $BUILD: unpack FOLDER PATTERN
unpack() {
    rm -rf "${BUILD:?}/$1"
    mkdir -p "$BUILD/$1"
    tar -C "$BUILD/$1" --strip-components=1 --no-same-owner -xf "$INPUTS"/$2
}
