"""The changes that are tried, and the distinction between noticed and unnoticed changes."""

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
_TRY = """
import sys
from tests.mutation.areas import Area
from tests.mutation.runner import try_mutants

tests, root = sys.argv[1:]
area = Area(("orlop_kernel.boot.phases",), (tests,), root=root == "True")
outcome = try_mutants(area, lambda name: "leave out" in name, 1)
print(len(outcome.noticed), len(outcome.survivors), *outcome.failing)
"""


def try_phases(tests: str, *, root: bool) -> str:
    """Try the changes of a module in a new process, which forks. Returns the numbers of noticed and of surviving changes,
    and the failing tests."""
    command = [sys.executable, "-c", _TRY, tests, str(root)]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=55, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_mutants_change_each_kind_of_guard() -> None:
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
        ("leave out: sync(data)", "with CancelScope(shield=True):\n        if False:\n            sync(data)"),
        ("move the limit", "len(data) >= limit"),
        ("turn the condition", "if not (not data or len(data) > limit)"),
    ],
)
def test_mutant_differs_from_the_source_in_only_one_place(change: str, expected: str) -> None:
    tree = ast.parse(_SOURCE)
    mutant = next(mutant for mutant in mutants("m", tree) if change in mutant.name)
    assert expected in ast.unparse(mutant.tree(tree))
    assert ast.unparse(tree) == ast.unparse(ast.parse(_SOURCE)), "the original stays as it is"


_REACHED = """
from orlop_kernel.boot.phases import Phases

def test_lines_are_reached():
    Phases(0).end("imports")

def test_fails_without_a_change():
    Phases(0).end("imports")
    assert False
"""


def test_mutant_survives_only_if_no_test_fails_because_of_its_change(tmp_path: Path) -> None:
    assert try_phases("kernel/tests/test_phases.py", root=False) == "1 0"
    assert try_phases("kernel/tests/test_store.py", root=False) == "0 1", "no test reaches it"
    reached = tmp_path / "test_reached.py"
    reached.write_text(_REACHED)
    same_user = os.geteuid() == 0
    found = try_phases(str(reached), root=same_user)
    assert (found[:3], found[-27:]) == ("0 1", "test_fails_without_a_change")


def test_result_shows_how_many_mutants_were_noticed_and_lists_the_others() -> None:
    result = Result("access", 20, ("m:f: leave out: sync(data)",))
    assert str(result) == "access: 19 of 20 noticed (95.0%)\n    m:f: leave out: sync(data)"
    assert Result("access", 0, ()).killed == 1


@pytest.mark.root
@pytest.mark.parametrize("root", [True, False])
def test_a_mutant_that_runs_as_root_cannot_harm_the_machine(root: bool) -> None:
    """The test in the mutant only reads mount flags and tries to change its file, so a failing protection does no harm."""
    places = ("/", "/usr", "/dev", "/var/tmp", str(_ROOT))
    harm = Path("/var/tmp") / f"test_orlop_harm_{os.getpid()}.py"
    victim = harm.with_suffix(".victim")
    harm.write_text(
        "import os, pytest\n"
        "from orlop_kernel.boot.phases import Phases\n"
        "def test_harm(tmp_path):\n"
        "    (tmp_path / 'own').touch()\n"
        f"    assert [path for path in {places} if not os.statvfs(path).f_flag & os.ST_RDONLY] == []\n"
        f"    assert not os.path.exists('/proc/{os.getpid()}')\n"
        f"    assert (os.geteuid() == 0) == {root}\n"
        "    with pytest.raises(OSError, match='Read-only'):\n"
        f"        os.unlink({str(victim)!r})\n"
        "    phases = Phases(0)\n"
        "    phases.end('imports')\n"
        "    assert 'imports' in str(phases)\n"
    )
    victim.touch()
    try:
        assert try_phases(str(harm), root=root) == "1 0", "the test passes, and notices a change"
        assert victim.exists()
    finally:
        harm.unlink()
        victim.unlink(missing_ok=True)
