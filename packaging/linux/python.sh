#!/bin/sh
# Builds CPython into $BUILD/python, as a folder that runs wherever it lies. It needs zlib, libffi and OpenSSL, which are
# linked into its modules. usage: INPUTS=... BUILD=... TOOLS=... JOBS=... python.sh
. "$(dirname "$0")/toolchain.sh"
prefix="$BUILD/prefix"
export CFLAGS="-O2 -fPIC"
host=x86_64-pc-linux-gnu

unpack zlib 'zlib_1.3*.orig.tar.gz'
(cd "$BUILD/zlib" && ./configure --static --prefix="$prefix" && make -s libz.a && make -s install) > "$BUILD/zlib.log" 2>&1

# The trampolines that would lie in libffi's own code need a function that this version leaves out.
unpack libffi 'libffi_3*.orig.tar.gz'
(cd "$BUILD/libffi" &&
    ./configure -q --build=$host --host=$host --disable-shared --disable-docs --disable-exec-static-tramp \
        --prefix="$prefix" && make -s -j"$JOBS" && make -s install) > "$BUILD/libffi.log" 2>&1

# Hashes and what `ssl` needs to be imported. Nothing here opens a connection, so most of it is left out.
unpack openssl 'openssl_3*.orig.tar.gz'
leave_out="apps aria bf camellia cast cmp cms comp ct des docs dtls engine gost idea legacy md4 mdc2 ml-dsa module
    nextprotoneg ocsp psk quic rc2 rc4 rc5 rfc3779 rmd160 seed shared slh-dsa sm2 sm3 sm4 srp srtp ssl3 tests ts whirlpool"
(cd "$BUILD/openssl" &&
    ./Configure linux-x86_64 $(printf ' no-%s' $leave_out) --prefix=/usr --libdir=lib --openssldir=/etc/ssl &&
    make -s -j"$JOBS" build_libs && make -s install_dev DESTDIR="$BUILD/openssl-root") > "$BUILD/openssl.log" 2>&1

unpack cpython 'python3*.orig.tar.xz'
unpack cpython-debian 'python3*.debian.tar.xz'
# Of Debian's changes those that mend faults; the others fit Python into Debian.
patches=$(grep -E '^(CVE-|ssl-|dict-use|traverse-)' "$BUILD/cpython-debian/patches/series")
for patch in $patches; do
    patch --silent -d "$BUILD/cpython" -p1 < "$BUILD/cpython-debian/patches/$patch"
done
# The time of the build would make every build another one; this is the time of the sources.
day=$(LC_ALL=C date -u -r "$BUILD/cpython/README.rst" "+%b %d %Y")
sed -i "s/DATE __DATE__/DATE \"$day\"/; s/TIME __TIME__/TIME \"00:00:00\"/" "$BUILD/cpython/Modules/getbuildinfo.c"
modules="_bz2 _curses _curses_panel _dbm _gdbm _lzma _sqlite3 _tkinter _uuid nis readline xxlimited xxlimited_35"
(cd "$BUILD/cpython" &&
    PKG_CONFIG_LIBDIR="$prefix/lib/pkgconfig" ./configure --prefix=/python --build=$host --with-openssl="$BUILD/openssl-root/usr" \
        --without-ensurepip --disable-test-modules $(printf ' py_cv_module_%s=n/a' $modules) \
        CPPFLAGS="-I$prefix/include" LDFLAGS="-L$prefix/lib -s" &&
    make -s -j"$JOBS") > "$BUILD/cpython.log" 2>&1

# `make install` would compile all modules three times, also those that the package leaves out.
rm -rf "$BUILD/python" "$BUILD/python-root"
make -s -C "$BUILD/cpython" altbininstall sharedinstall DESTDIR="$BUILD/python-root" >> "$BUILD/cpython.log" 2>&1
mv "$BUILD/python-root/python" "$BUILD/python"
cp -R "$BUILD/cpython/Lib/." "$BUILD/cpython/$(cat "$BUILD/cpython/pybuilddir.txt")"/_sysconfigdata_*.py "$BUILD/python/lib/python3.13"
find "$BUILD/python" -name __pycache__ -prune -exec rm -r {} +
