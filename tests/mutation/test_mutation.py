"""Which changes are tried, and that a run tells a noticed change from an unnoticed one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.mutation.__main__ import Result
from tests.mutation.mutants import mutants

_SOURCE = """
def store(data, limit):
    if not data or len(data) > limit:
        raise ValueError("too big")
    with CancelScope(shield=True):
        sync(data)
    log.info("stored")
    return [piece for piece in data if all(piece)]
"""

_ROOT = Path(__file__).parents[2]
_TRIAL = """
import ast
import subprocess
import sys
from pathlib import Path
from tests.mutation.mutants import mutants
from tests.mutation.runner import lines_reached, passes, source_of

module, tests = "orlop_kernel.boot.phases", "kernel/tests/test_phases.py"
source = source_of(module)
tree = ast.parse(Path(source).read_text())
seen = lines_reached(tests, [source])
mutant = next(mutant for mutant in mutants(module, tree) if "leave out" in mutant.name)
results = passes(module, tree, [tests], seen.seconds), passes(module, mutant.tree(tree), [tests], seen.seconds)
print(f"reached: {mutant.first in seen.lines[source]}, unchanged: {results[0]}, changed: {results[1]}")
"""


def test_each_kind_of_guard_is_changed() -> None:
    names = [mutant.name for mutant in mutants("m", ast.parse(_SOURCE))]
    assert sorted(names) == [
        "m:store: any for all: all(piece)",
        "m:store: do not raise: raise ValueError('too big')",
        "m:store: exchange and, or: not data or len(data) > limit",
        "m:store: leave out: sync(data)",
        "m:store: let all pass: for piece in data if all(piece)",
        "m:store: move the limit: len(data) > limit",
        "m:store: no shield: shield=True",
        "m:store: turn the condition round: if not data or len(data) > limit: raise ValueError('too big')",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("leave out: sync(data)", "with CancelScope(shield=True):\n        pass"),
        ("move the limit", "len(data) >= limit"),
        ("turn the condition", "if not (not data or len(data) > limit)"),
    ],
)
def test_a_mutant_differs_in_one_place(change: str, expected: str) -> None:
    tree = ast.parse(_SOURCE)
    mutant = next(mutant for mutant in mutants("m", tree) if change in mutant.name)
    assert expected in ast.unparse(mutant.tree(tree))
    assert ast.unparse(tree) == ast.unparse(ast.parse(_SOURCE)), "the original stays as it is"


def test_a_change_that_tests_notice_does_not_pass() -> None:
    """In a process of its own: this one has imported the module already, so it could not be changed."""
    done = subprocess.run([sys.executable, "-c", _TRIAL], cwd=_ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert (done.stdout, done.returncode) == ("reached: True, unchanged: True, changed: False\n", 0), done.stderr


def test_a_result_counts_survivors() -> None:
    result = Result("access", 20, ("m:f: leave out: sync(data)",))
    assert str(result) == "access: 19 of 20 noticed (95.0%)\n    m:f: leave out: sync(data)"
    assert Result("access", 0, ()).killed == 1


@pytest.mark.root
def test_a_mutant_that_runs_as_root_cannot_harm_the_machine() -> None:
    """The test looks at flags, and tries its own file alone: it must be harmless even without the protection."""
    places = ("/", "/usr", "/dev", "/var/tmp", str(_ROOT))
    harm = Path("/var/tmp") / f"test_orlop_harm_{os.getpid()}.py"
    victim = harm.with_suffix(".victim")
    harm.write_text(
        "import os, pytest\n"
        "def test_harm(tmp_path):\n"
        "    (tmp_path / 'own').touch()\n"
        f"    assert [path for path in {places} if not os.statvfs(path).f_flag & os.ST_RDONLY] == []\n"
        "    with pytest.raises(OSError, match='Read-only'):\n"
        f"        os.unlink({str(victim)!r})\n"
    )
    trial = (
        "import os, sys; from tests.mutation.runner import _pytest, _scratch, _wait\n"
        "with _scratch() as scratch:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(_pytest([sys.argv[1]], scratch))\n"
        "    sys.exit(_wait(child, 60))\n"
    )
    victim.touch()
    try:
        done = subprocess.run(
            [sys.executable, "-c", trial, str(harm)], cwd=_ROOT, capture_output=True, text=True, check=False
        )
        assert victim.exists()
    finally:
        harm.unlink()
        victim.unlink(missing_ok=True)
    assert done.returncode == 0, done.stdout + done.stderr
