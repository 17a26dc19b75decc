"""`./dev vm`: build the machine, run tests in it, show their output, and exit with their exit code.

One boot runs everything: first Orlop as a service (checks.py), then tests of the integration suite for each combination of
runtime and cgroup driver. Emulation is some fifteen times slower than a processor. So by default, only tests that depend on
the runtime or the cgroup driver are run.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from pathlib import Path

from . import image, machine

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "vm"
GROUNDS = ("runc/systemd", "runc/cgroupfs", "crun/systemd", "crun/cgroupfs")
SLOWNESS = 10
CHOSEN = {
    "update": "limits_change a_stopped_container",
    "stats": "show_the_usage",
    "hostile_containers": "fork_bomb does_not_see_its_monitor",
    "run": "run_prints missing_command rm_leaves_nothing memory capabilities privileged init seccomp sysctl",
    "lifecycle": "stop_kills_after pause test_top restart_always_restarts_after",
    "options_process": "apparmor_confines",
    "exec": "returns_the_exit_code terminal execs_end_with",
    "monitor": "out_of_memory",
    "live_restore": "kill_of_daemon_and_zygote dies_with_the_daemon of_a_killed_monitor",
    "zygote_crashes": "killed_when_its_monitor while_the_runtime_works hangs_is_killed",
}
PREPARE = """
link=$(ls /sys/class/net | grep -v lo | head -1)
ip link set lo up; ip link set "$link" up; ip addr add 10.0.2.15/24 dev "$link"; ip route add default via 10.0.2.2
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root
export PIP_NO_INDEX=1 PIP_FIND_LINKS={checkout}/.cache/wheels ORLOP_TEST_SLOWNESS={slowness}
cd {checkout}; failed=0
"""
PYTEST = ".venv/bin/pytest -v --tb=short -p no:cacheprovider"


def chosen() -> list[str]:
    files = [f"tests/integration/test_{name}.py" for name in CHOSEN]
    return [*files, "-k", " or ".join(f"(test_{name} and ({' or '.join(words.split())}))" for name, words in CHOSEN.items())]


def job(grounds: list[str], checks: bool, tests: list[str]) -> str:
    lines = [PREPARE.format(checkout=CHECKOUT, slowness=SLOWNESS)]
    if checks:
        lines.append(f"echo '== systemd'; {PYTEST} --timeout=3600 tests/vm/checks.py || failed=1")
    for ground in grounds:
        runtime, driver = ground.split("/")
        environment = f"ORLOP_TEST_RUNTIME={runtime} ORLOP_TEST_CGROUP_DRIVER={driver}"
        lines.append(f"echo '== {ground}'; {environment} {PYTEST} --timeout=900 -m root {shlex.join(tests)} || failed=1")
    return "\n".join([*lines, "exit $failed", ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev vm", description="Tests in a virtual machine with systemd and cgroup v2.")
    parser.add_argument(
        "--all",
        action="store_true",
        help="run the whole integration suite with each runtime and cgroup driver, which takes hours",
    )
    parser.add_argument(
        "--on",
        action="append",
        choices=(*GROUNDS, "systemd"),
        help="run only with this runtime and cgroup driver; may be repeated",
    )
    parser.add_argument("--sh", metavar="SCRIPT", help="run this shell script in the virtual machine, instead of tests")
    parser.add_argument(
        "--kvm",
        action="store_true",
        help="use the processor's virtualization, which is fast, but not available on every machine",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=0,
        help="power the virtual machine off after this number of minutes (default 60; with --all 360)",
    )
    parser.add_argument("tests", nargs="*", help="tests to run, as arguments of pytest; write options of pytest after --")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # raises an exception, so that the emulator is stopped as well

    where = given.on or (list(GROUNDS) if given.tests else ["systemd", *GROUNDS])
    tests = given.tests or (["tests/integration", "plugins"] if given.all else chosen())
    script = job([name for name in where if "/" in name], "systemd" in where, tests)
    if given.sh:
        script = PREPARE.format(checkout=CHECKOUT, slowness=SLOWNESS) + given.sh
    CACHE.mkdir(parents=True, exist_ok=True)
    built = image.base(CACHE, CHECKOUT)
    wheels = image.wheels(CACHE, CHECKOUT)
    minutes = given.minutes or (360 if given.all else 60)
    began = time.monotonic()
    code = machine.run(built, CACHE, lambda work: image.payload(work, CHECKOUT, wheels, script), minutes * 60, given.kvm)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    return code


if __name__ == "__main__":
    sys.exit(main())
