# shellcheck shell=sh
# `./dev install` and `./dev uninstall`: install Orlop as a systemd service. ./dev sources this file.
#
#   PREFIX/versions/VERSION-DIGEST/   a virtual environment for each version: monitors of running containers use the version that
#                                     started them, so an upgrade never changes files in use
#   PREFIX/current                    a link to the current version, replaced atomically
#   PREFIX/installed                  files created outside of PREFIX, for uninstall to remove
#
# After an interruption, run the same command again.

PREFIX=/opt/orlop
ROOT= # install below this directory instead of /, without starting anything; for package builders and tests
FORCE=
LINKS="orlop orlopd"
UNITS="orlop.socket orlop.service"

install_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --prefix=*) PREFIX=${1#*=} ;;
            --root=*) ROOT=$(mkdir -p "${1#*=}" && cd "${1#*=}" && pwd) ;;
            --force) FORCE=1 ;;
            *) die "unknown option: $1 (known options: --prefix=DIR, --root=DIR, and --force of ./dev uninstall)" ;;
        esac
        shift
    done
    case $PREFIX in /*[!/]) ;; *) die "the prefix must be an absolute path without a slash at its end: $PREFIX" ;; esac
    top=$ROOT$PREFIX
    manifest=$top/installed
}

with_systemd() { [ -z "$ROOT" ] && [ -d /run/systemd/system ]; }
recorded() { grep -qxF "$1" "$manifest" 2>/dev/null; }
record() { recorded "$1" || printf '%s\n' "$1" >>"$manifest"; }

digest() { # INTERPRETER: hashes everything that determines a version's content
    {
        "$1" -V
        # shellcheck disable=SC2086
        find packaging/install.txt $DISTS '(' -name tests -o -name __pycache__ ')' -prune -o -type f -print | LC_ALL=C sort | xargs sha256sum
    } | sha256sum | cut -c1-12
}

build() { # INTERPRETER TARGET: build the new version's virtual environment, and rename it into place
    made=$ROOT$2.new
    work=$(mktemp -d)
    trap 'rm -rf "$work" "$made"' EXIT
    trap 'exit 1' HUP INT TERM
    rm -rf "$made"
    "$1" -m venv "$made"
    pip="$made/bin/python -m pip --disable-pip-version-check -q"
    $pip install --no-compile --require-hashes -r packaging/install.txt
    # shellcheck disable=SC2046
    $pip wheel --no-deps --no-build-isolation -w "$work" $(printf './%s ' $DISTS)
    $pip install --no-compile --no-deps "$work"/*.whl
    $pip uninstall -y hatchling editables pathspec trove-classifiers # only needed for building
    $pip check
    # Scripts contain the path of the environment, below ROOT: replace it by the final path
    grep -lIrF "$made" "$made/bin" "$made/pyvenv.cfg" | xargs sed -i "s|$made|$2|g"
    "$made/bin/python" -m compileall -q -j 0 -s "$made" -p "$2" "$made/lib" >/dev/null
    mv "$made" "$ROOT$2"
    rm -rf "$work"
    trap - EXIT HUP INT TERM
}

drivers() { # ENVIRONMENT: list the drivers installed there, one "KIND NAME" per line
    "$1/bin/python" -I -c 'from importlib.metadata import entry_points as found
print(*sorted({f"{each.group[6:]} {each.name}" for each in found() if each.group.startswith("orlop.")}), sep="\n")'
}

keep_drivers() { # TARGET: refuse an upgrade that would lose third-party drivers
    [ -z "$ROOT" ] && [ -e "$top/current" ] || return 0
    there=$(drivers "$1")
    lost=$(drivers "$top/current" | while read -r driver; do
        printf '%s\n' "$there" | grep -qxF "$driver" || printf ' (%s)' "$driver"
    done)
    [ -z "$lost" ] || die "the new version lacks drivers that are installed now:$lost. The installed version is unchanged. Install the
    drivers with $1/bin/python -m pip install NAME, then run ./dev install again"
}

refuse_foreign() { # PATH: refuse to replace a file that ./dev install did not create
    if [ -e "$ROOT$1" ] || [ -L "$ROOT$1" ]; then
        recorded "$1" || die "$ROOT$1 exists and was not made by ./dev install: move it away first"
    fi
}

install_orlop() {
    install_options "$@"
    [ "$(id -u)" = 0 ] || { as_root "$PWD/dev" install "$@"; return; }
    umask 022 # all users may run the client
    packages "$RUN_PACKAGES python3 python3-venv"
    interpreter=$(python)
    for name in $LINKS; do refuse_foreign "/usr/local/bin/$name"; done
    for unit in $UNITS; do refuse_foreign "/etc/systemd/system/$unit"; done
    version=$("$interpreter" -c 'import sys, tomllib; print(tomllib.load(sys.stdin.buffer)["project"]["version"])' <kernel/pyproject.toml)
    target=$PREFIX/versions/$version-$(digest "$interpreter")
    mkdir -p "$top/versions" "$ROOT/usr/local/bin" "$ROOT/etc/systemd/system"
    if [ ! -d "$ROOT$target" ]; then
        say "Building $target"
        build "$interpreter" "$target"
    fi
    if [ -z "$ROOT" ]; then
        # shellcheck disable=SC2046
        "$target/bin/orlopd" $(unit_flags) --validate ||
            die "the new version refuses the configuration; the installed version is unchanged"
    fi

    keep_drivers "$target"
    ln -sfn "versions/${target##*/}" "$top/current.new"
    mv -T "$top/current.new" "$top/current"
    for name in $LINKS; do
        record "/usr/local/bin/$name"
        ln -sfn "$PREFIX/current/bin/$name" "$ROOT/usr/local/bin/$name"
    done
    for unit in $UNITS; do
        record "/etc/systemd/system/$unit"
        sed "s|/usr/bin/orlopd|$PREFIX/current/bin/orlopd|" "packaging/$unit" >"$ROOT/etc/systemd/system/$unit.new"
        mv "$ROOT/etc/systemd/system/$unit.new" "$ROOT/etc/systemd/system/$unit"
    done
    if [ -z "$ROOT" ] && ! getent group docker >/dev/null; then
        groupadd --system docker
        record "group docker"
    fi
    remove_unused
    activate
    say "Installed ${target##*/} in $top"
}

unit_flags() { # the daemon's flags under systemd: those of the unit, or of an administrator's drop-in
    with_systemd || return 0
    # shellcheck disable=SC2046
    set -- $(systemctl show -P ExecStart orlop.service 2>/dev/null | sed -n 's/.*argv\[\]=\([^;]*\);.*/\1/p')
    case ${1:-} in */orlopd) shift ;; *) set -- -H fd:// ;; esac
    printf '%s\n' "$*"
}

in_use() { # DIRECTORY: whether a process has a library of this version mapped; all Orlop processes load msgspec
    cat /proc/[0-9]*/maps 2>/dev/null | grep -qF " $1/"
}

remove_unused() { # remove versions that no process uses
    for old in "$top"/versions/*; do
        if [ "${old##*/}" != "${target##*/}" ] && ! in_use "$old"; then rm -rf "$old"; fi
    done
}

orlop_says() { timeout 20 "$PREFIX/current/bin/orlop" -H unix:///run/orlop.sock "$@" 2>/dev/null; }

activate() {
    if ! with_systemd; then
        [ -n "$ROOT" ] || say "systemd does not run on this machine: start $PREFIX/current/bin/orlopd as root"
        return 0
    fi
    systemctl daemon-reload
    systemctl -q enable $UNITS
    if ! systemctl -q is-active orlop.service; then
        systemctl start orlop.socket orlop.service
        return
    fi
    if grep -qF " $target/" "/proc/$(systemctl show -P MainPID orlop.service)/maps"; then return; fi # it already runs this version
    case $(orlop_says info --format '{{.LiveRestoreEnabled}} {{.ContainersRunning}}') in
        true* | "false 0")
            systemctl restart orlop.service
            say "orlop.service was restarted; running containers were not stopped"
            ;;
        *) say "The daemon still runs the earlier version, because a restart would stop its containers. To switch to the new version: systemctl restart orlop" ;;
    esac
}

uninstall_orlop() {
    install_options "$@"
    [ "$(id -u)" = 0 ] || { as_root "$PWD/dev" uninstall "$@"; return; }
    left=
    [ -e "$manifest" ] || die "nothing is installed in $top"
    if with_systemd && systemctl -q is-active orlop.service; then
        if listed=$(orlop_says ps -q); then
            running=$(printf '%s' "$listed" | grep -c .) || true
            [ "$running" = 0 ] || [ -n "$FORCE" ] || die "$running containers run: stop them first, or use --force"
        elif [ -z "$FORCE" ]; then
            die "orlop.service runs and gives no answer at /run/orlop.sock, so it is unknown whether containers run.
    If the daemon listens on another address (orlop -H ADDRESS ps), stop its containers there. Then stop the service
    (systemctl stop orlop.service) and run ./dev uninstall again; or use --force"
        fi
    fi
    if with_systemd; then
        for unit in orlop.service orlop.socket; do
            if recorded "/etc/systemd/system/$unit"; then systemctl -q disable --now "$unit"; fi
        done
    fi
    if [ -z "$ROOT" ] && in_use "$top/versions" && [ -z "$FORCE" ]; then
        die "processes of Orlop still run from $top: stop them first, or use --force"
    fi
    while read -r path; do
        case $path in
            "group docker")
                if [ -z "$(getent group docker | cut -d: -f4)" ]; then groupdel docker; else left=" the group docker,"; fi
                ;;
            *) rm -f "$ROOT$path" ;;
        esac
    done <"$manifest"
    if with_systemd; then
        systemctl daemon-reload
        systemctl reset-failed $UNITS 2>/dev/null || true
    fi
    rm -rf "$top/versions" "$top/current" "$top/current.new" "$manifest"
    rmdir "$top" 2>/dev/null || true
    for path in /var/lib/orlop /etc/orlop /etc/systemd/system/orlop.service.d /etc/systemd/system/orlop.socket.d; do
        if [ -e "$ROOT$path" ]; then left="$left $ROOT$path,"; fi
    done
    say "Uninstalled. ${left:+Your data and settings were kept:${left%,}. }These Debian packages were kept, too: $RUN_PACKAGES"
}
