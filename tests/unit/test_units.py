"""systemd's own parser must accept the units. The installer must refuse to run in certain cases."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[2] / "packaging"


def complaints(directory: Path) -> str:
    """The output of `systemd-analyze verify`, empty if all is well. Its exit code is 0 even for unknown keys."""
    units = [str(directory / name) for name in ("orlop.service", "orlop.socket")]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_unit_files(tmp_path: Path) -> None:
    for unit in PACKAGING.glob("orlop.*"):
        text = unit.read_text().replace("/usr/bin/orlopd", "/bin/true")  # verify checks that the program exists
        (tmp_path / unit.name).write_text(text)
    assert complaints(tmp_path) == ""
    with (tmp_path / "orlop.service").open("a") as file:
        file.write("[Service]\nNoSuchKey=1\n")
    assert "NoSuchKey" in complaints(tmp_path)


def test_unit_contains_the_path_of_orlopd_that_the_installer_replaces() -> None:
    text = (PACKAGING / "orlop.service").read_text()
    assert text.count("/usr/bin/orlopd") == 1
    assert "\nExecStart=/usr/bin/orlopd -H fd://\n" in text


# --- the installer ------------------------------------------------------------------------------------------------------


def installer(tmp_path: Path, body: str, service: str = "/opt/orlopd -H fd://") -> subprocess.CompletedProcess[str]:
    """Run a function of the installer, without root, systemd and a build. `service`: the unit's command line."""
    top = tmp_path / "orlop"
    (top / "current" / "bin").mkdir(parents=True, exist_ok=True)
    (top / "installed").touch()
    shown = f"{{ path=/x ; argv[]={service} ; ignore_errors=no ; pid=0 }}" if service else ""
    script = f"""
        set -eu
        RUN_PACKAGES= DISTS=
        say() {{ echo "say: $*"; }}
        die() {{ echo "die: $*"; exit 1; }}
        id() {{ echo 0; }}
        packages() {{ :; }}
        python() {{ echo {sys.executable}; }}
        . packaging/install.sh
        with_systemd() {{ :; }}
        in_use() {{ false; }}
        refuse_foreign() {{ :; }}
        keep_drivers() {{ die "it went on"; }}
        digest() {{ echo d; }}
        mkdir() {{ command mkdir -p "$2"; }}  # the first one: others are the machine's
        build() {{
            mkdir -p "$2/bin"
            printf '#!/bin/sh\\necho "orlopd $*"\\nexit 1\\n' >"$2/bin/orlopd"
            chmod +x "$2/bin/orlopd"
        }}
        systemctl() {{ case $1 in show) echo "{shown}" ;; *) echo "systemctl $*" ;; esac; }}
        {body}
    """
    argv = ["sh", "-c", script]
    return subprocess.run(argv, cwd=PACKAGING.parent, capture_output=True, text=True, timeout=30, check=False)


def client(tmp_path: Path, script: str) -> None:
    program = tmp_path / "orlop" / "current" / "bin" / "orlop"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("exit 1", "die: orlop.service runs and gives no answer at /run/orlop.sock"),
        ("echo a\necho b", "die: 2 containers run: stop them first"),
        ("", ""),
    ],
)
def test_uninstall_is_refused_while_containers_run_or_their_state_is_unknown(tmp_path: Path, says: str, reason: str) -> None:
    command = f"uninstall_orlop --prefix={tmp_path}/orlop"
    if reason:
        client(tmp_path, says)
        done = installer(tmp_path, command)
        assert (done.returncode, "say: Uninstalled" in done.stdout) == (1, False)
        assert reason in done.stdout
    client(tmp_path, says)
    done = installer(tmp_path, command + (" --force" if reason else ""))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "say: Uninstalled" in done.stdout


@pytest.mark.parametrize(
    ("service", "flags"),
    [
        ("/opt/orlop/current/bin/orlopd -H fd://", "-H fd:// "),
        ("/opt/orlop/current/bin/orlopd --debug", "--debug "),
        ("/opt/orlop/current/bin/orlopd", ""),
        ("/bin/sh -c /x", "-H fd:// "),
        ("", "-H fd:// "),
    ],
)
def test_installer_validates_the_configuration_with_the_flags_of_the_installed_unit(
    tmp_path: Path, service: str, flags: str
) -> None:
    done = installer(tmp_path, f"install_orlop --prefix={tmp_path}/orlop", service)
    assert (done.returncode, f"orlopd {flags}--validate\n" in done.stdout) == (1, True), done.stdout + done.stderr
    assert "the new version refuses the configuration; the installed version is unchanged" in done.stdout
    assert not (tmp_path / "orlop" / "current").is_symlink()
