"""Operations on the root of a dockerd: adoption, adoption that moves the files, and giving back. A real dockerd makes the
root, once. The root is copied to `docker` in the engine's home. The state of the host includes its files.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

from tests.integration.docker_root_small import small_root
from tests.integration.engine import Engine, until

from .operation import Operation, Refused, Step, all_of, ask

__all__ = ["OPERATIONS", "close"]

_stack = contextlib.ExitStack()


@cache
def _template(containerd: bool) -> Path:
    """The root made by dockerd, which exists until `close`."""
    _stack.callback(_template.cache_clear)
    return _stack.enter_context(small_root(containerd=containerd))


def close() -> None:
    _stack.close()


def _root(engine: Engine) -> Path:
    return engine.home / "docker"


def _copy(engine: Engine, *, containerd: bool) -> None:
    subprocess.run(["cp", "-a", _template(containerd), _root(engine)], check=True)


# --- commands ---------------------------------------------------------------------------------------------------------


def _adopt(engine: Engine, *words: str) -> list[str]:
    return _command(engine, "adopt", str(_root(engine)), *words)


def _give_back(engine: Engine) -> list[str]:
    return _command(engine, "give-back")


def _command(engine: Engine, *words: str) -> list[str]:
    own = ["--config-file", str(engine.config_path), "--data-root", str(engine.data_root)]
    return [sys.executable, "-m", "orlop_cli", "system", *words, *own, "--exec-root", str(engine.exec_root)]


def _stopped(engine: Engine, argv: list[str], *refusals: str) -> None:
    """Run a command while the daemon is stopped. `refusals` are accepted."""
    engine.stop()
    done = engine.run(argv)
    engine.start()
    if done.code and not any(words in done.err for words in refusals):
        raise Refused(done.err)


def _adopt_it(engine: Engine, *words: str) -> None:
    _stopped(engine, _adopt(engine, *words))


def _give_it_back(engine: Engine) -> None:
    _stopped(engine, _give_back(engine))


def _use(engine: Engine) -> None:
    """Write into the container, its volume and its log, and rotate the log."""
    ask(engine, "POST", "/containers/old/start")
    until(lambda: engine.state("old") == "exited", "the run of the container")


def _undo(engine: Engine) -> None:
    _stopped(engine, _give_back(engine), "nothing was adopted")
    shutil.rmtree(_root(engine), ignore_errors=True)


# --- operations -------------------------------------------------------------------------------------------------------


def _operations(store: str, *, containerd: bool) -> tuple[Operation, ...]:
    copy: Step = partial(_copy, containerd=containerd)
    for_good: Step = lambda engine: _adopt_it(engine, "--for-good")  # noqa: E731 - as the other steps
    return (
        Operation(f"adopt{store}", (_adopt_it,), copy, _undo, "command", command=_adopt),
        Operation(
            f"adopt-for-good{store}",
            (for_good,),
            copy,
            _undo,
            "command",
            between=(_adopt_it,),
            command=lambda engine: _adopt(engine, "--for-good"),
        ),
        Operation(
            f"give-back{store}", (_give_it_back,), all_of(copy, _adopt_it, _use), _undo, "command", command=_give_back
        ),
        Operation(
            f"give-back-moved{store}",
            (_give_it_back,),
            all_of(copy, for_good, _use),
            _undo,
            "command",
            command=_give_back,
        ),
    )


OPERATIONS = (*_operations("", containerd=False), *_operations("-containerd", containerd=True))
