# Compile a Python from Debian's source, inside a folder that chroot.py made: build.sh free-threaded|musl VERSION
set -e
kind=$1 version=$2
export DEBIAN_FRONTEND=noninteractive
mkdir -p /opt/source
cd /opt/source

# Unpack the newest source of a package that can be downloaded.
fetch() {
    rm -rf "$1" && mkdir "$1"
    for each in $(apt-cache showsrc --only-source "$1" | sed -n 's/^Version: //p' | sort -Vru); do
        rm -f "$1"_* # An earlier download, even a part of one, would be unpacked, too.
        if apt-get source -qq --tar-only "$1=$each"; then
            tar -xf "$1"_*.orig.tar.* -C "$1" --strip-components=1
            return
        fi
    done
    echo "no source of $1 can be downloaded" >&2
    return 1
}

install_python() {
    fetch "python$version"
    cd "python$version"
    ./configure -q --with-ensurepip=install --disable-test-modules "$@"
    nice make -s
    make -s install
}

if [ "$kind" = free-threaded ]; then
    install_python --disable-gil "--prefix=/opt/python${version}t"
    exit
fi

# musl-gcc sees no headers of Linux and says that it is for glibc; libgcc_s is linked to glibc.
own=/opt/musl
mkdir -p "$own/bin" "$own/headers"
for each in linux asm-generic "$(gcc -print-multiarch)/asm"; do
    ln -sfn "/usr/include/$each" "$own/headers/${each##*/}"
done
cat >"$own/bin/cc" <<END
#!/bin/sh
[ "\$*" != --print-multiarch ] || exec echo "$(uname -m)-linux-musl"
exec musl-gcc -static-libgcc -idirafter $own/headers "\$@"
END
chmod +x "$own/bin/cc"
export CC="$own/bin/cc" CFLAGS="-O2 -fPIC" PKG_CONFIG_LIBDIR="$own/lib/pkgconfig"
if [ ! -e "$own/lib/libssl.a" ]; then # The last of three.
    fetch zlib
    (cd zlib && ./configure --static --prefix=$own && make -s install) >/dev/null
    fetch libffi
    (
        cd libffi
        autoreconf -fi
        ./configure -q --prefix=$own --libdir=$own/lib --disable-shared --disable-multi-os-directory --disable-docs
        make -s install
    ) >/dev/null
    fetch openssl
    (
        cd openssl
        ./Configure "linux-$(uname -m)" no-shared no-async no-tests --prefix=$own --libdir=lib # musl has no makecontext.
        nice make -s build_libs
        make -s install_dev
    ) >/dev/null
fi
install_python "--prefix=/opt/python$version-musl" --with-openssl=$own
