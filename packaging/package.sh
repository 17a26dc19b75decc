# shellcheck shell=sh
# `./dev package wheels|zipapp|deb [DIRECTORY]`: makes files that users install. ./dev sources this file after install.sh; it uses
# the functions and variables of both.
#
#   wheels   a wheel of every distribution: pip install --find-links DIRECTORY orlop
#   zipapp   the client in one file, DIRECTORY/orlop.pyz, which runs on any Python 3.11
#   deb      Debian packages: orlop (the daemon), orlop-cli (the client), python3-orlop-sdk (for authors of plugins)

CLIENT_PACKAGES="click rich markdown-it-py mdurl pygments" # what the client needs, but for `orlop tls`: that needs cryptography

package() {
    case ${1:-} in
        wheels | zipapp | deb) ;;
        *) die "usage: ./dev package wheels|zipapp|deb [DIRECTORY] (default DIRECTORY: dist)" ;;
    esac
    setup
    mkdir -p "${2:-dist}"
    out=$(cd "${2:-dist}" && pwd)
    version=$("$(python)" -c 'import sys, tomllib; print(tomllib.load(sys.stdin.buffer)["project"]["version"])' <kernel/pyproject.toml)
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 1' HUP INT TERM
    "package_$1"
}

pip_() { $VENV/bin/python -m pip --disable-pip-version-check -q "$@"; }

wheels_of() { # TARGET DISTRIBUTION...: build wheels, without asking an index
    target=$1
    shift
    ORLOP_RELEASE=1 pip_ wheel --no-deps --no-build-isolation -w "$target" "$@"
}

pinned() { # NAME...: print the lines of install.txt about these packages
    for name; do sed -n "/^$name==/,/^[a-z]/{/^$name==\|^ /p}" packaging/install.txt; done
}

package_wheels() {
    # shellcheck disable=SC2046
    wheels_of "$out" . $(printf './%s ' $DISTS)
    say "Wheels are in $out. To install: pip install --find-links $out orlop"
}

client_tree() { # TARGET: the client and what it needs, all of it Python
    wheels_of "$scratch/wheels" ./cli
    # shellcheck disable=SC2086
    pinned $CLIENT_PACKAGES >"$scratch/pinned"
    pip_ install --no-compile --no-deps --require-hashes --target "$1" -r "$scratch/pinned"
    rm -rf "$1/bin"
    pip_ install --no-compile --no-deps --target "$1" "$scratch"/wheels/*.whl
    rm -rf "$1/bin"
}

package_zipapp() {
    client_tree "$scratch/client"
    cat >"$scratch/client/__main__.py" <<'END'
import sys

if sys.version_info < (3, 11):
    sys.exit("orlop needs Python 3.11 or newer; this is Python %d.%d" % sys.version_info[:2])

from orlop_cli.__main__ import main

main()
END
    find "$scratch/client" -exec touch -d @"${SOURCE_DATE_EPOCH:-315619200}" '{}' + # zip knows no earlier year than 1980
    $VENV/bin/python -m zipapp -c -p '/usr/bin/env python3' -o "$out/orlop.pyz" "$scratch/client"
    chmod 755 "$out/orlop.pyz"
    say "The client is $out/orlop.pyz"
}

# Debian packages. Each monitor of a running container uses the files of the version that started it, so every version has a
# directory of its own, and an upgrade keeps the versions in use (packaging/debian/orlop.preinst, orlop.postinst).

package_deb() {
    command -v dpkg-deb >/dev/null || die "dpkg-deb is needed: make Debian packages on a Debian machine"
    interpreter=/usr/bin/python3
    [ -x $interpreter ] || die "Debian's python3 is needed, because the package depends on it"
    umask 022
    deb_client
    deb_sdk
    deb_daemon
    say "Debian packages are in $out. To install: apt install $out/orlop_${version}_$(dpkg --print-architecture).deb $out/orlop-cli_${version}_all.deb"
}

deb() { # NAME ARCHITECTURE DEPENDS: make a package of the tree at $scratch/NAME
    tree=$scratch/$1
    mkdir -p "$tree/DEBIAN" "$tree/usr/share/doc/$1"
    cp LICENSE "$tree/usr/share/doc/$1/copyright"
    gzip -9nc CHANGELOG.md >"$tree/usr/share/doc/$1/changelog.gz"
    for script in preinst postinst prerm postrm; do
        [ ! -e "packaging/debian/$1.$script" ] || install -m755 "packaging/debian/$1.$script" "$tree/DEBIAN/$script"
    done
    [ ! -d "$tree/etc" ] || (cd "$tree" && find etc -type f -printf '/%p\n') >"$tree/DEBIAN/conffiles"
    sed -e "s|@VERSION@|$version|g" -e "s|@ARCHITECTURE@|$2|g" -e "s|@DEPENDS@|$3|g" "packaging/debian/$1.control" >"$tree/DEBIAN/control"
    printf 'Installed-Size: %s\n' "$(du -ks --exclude=DEBIAN "$tree" | cut -f1)" >>"$tree/DEBIAN/control"
    (cd "$tree" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 -r md5sum) >"$tree/DEBIAN/md5sums"
    dpkg-deb --root-owner-group -Zxz --build "$tree" "$out/$1_${version}_$2.deb" >/dev/null
}

deb_client() {
    client_tree "$scratch/orlop-cli/usr/lib/orlop-cli"
    mkdir -p "$scratch/orlop-cli/usr/bin"
    install -m755 packaging/debian/orlop "$scratch/orlop-cli/usr/bin/orlop"
    share=$scratch/orlop-cli/usr/share
    $VENV/bin/python packaging/manpages.py "$scratch/man"
    mkdir -p "$share/man" "$share/bash-completion/completions" "$share/zsh/vendor-completions" "$share/fish/vendor_completions.d"
    cp -r "$scratch/man/man1" "$share/man/"
    $VENV/bin/orlop completion bash >"$share/bash-completion/completions/orlop"
    $VENV/bin/orlop completion zsh >"$share/zsh/vendor-completions/_orlop"
    $VENV/bin/orlop completion fish >"$share/fish/vendor_completions.d/orlop.fish"
    deb orlop-cli all 'python3 (>= 3.11)'
}

deb_sdk() {
    rm -rf "$scratch/wheels"
    wheels_of "$scratch/wheels" ./sdk
    pip_ install --no-compile --no-deps --target "$scratch/python3-orlop-sdk/usr/lib/python3/dist-packages" "$scratch"/wheels/*.whl
    deb python3-orlop-sdk all 'python3 (>= 3.11), python3-msgspec (>= 0.19), python3-pluggy (>= 1.5)'
}

deb_daemon() { # a virtual environment that sees Debian's packages too, because drivers may be installed as such
    tree=$scratch/orlop
    target=/usr/lib/orlop/versions/$version-$(digest $interpreter)
    mkdir -p "$tree/usr/bin" "$tree/usr/lib/orlop/versions" "$tree/usr/lib/systemd/system" "$tree/etc/default" "$tree/usr/share/man"
    cp -r "$scratch/man/man8" "$tree/usr/share/man/"
    (ROOT=$tree; build $interpreter "$target")
    "$tree$target/bin/python" -m pip -q uninstall -y pip
    find "$tree$target/bin" -type f ! -name orlopd ! -name orlop -delete
    rm -f "$tree$target/.gitignore"
    sed -i 's/^include-system-site-packages = false/include-system-site-packages = true/' "$tree$target/pyvenv.cfg"
    ln -s "versions/${target##*/}" "$tree/usr/lib/orlop/current"
    ln -s ../lib/orlop/current/bin/orlopd "$tree/usr/bin/orlopd"
    cp packaging/orlop.service packaging/orlop.socket "$tree/usr/lib/systemd/system/"
    cp packaging/debian/orlop.default "$tree/etc/default/orlop"
    next=$($interpreter -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1] + 1}")')
    this=$($interpreter -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')
    deb orlop "$(dpkg --print-architecture)" "python3 (>= $this), python3 (<< $next), $(echo "$RUN_PACKAGES" | sed 's/ /, /g')"
}
