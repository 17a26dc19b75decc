"""Drivers for test_hostile_drivers.py that hang, raise errors, or return wrong values. A daemon imports this module from a
directory of the test.

Each class is a driver of this project with one fault. `PLUGINS` maps (kind, name) to its factory; the attribute of this
module that an entry point names is made by `__getattr__`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from orlop_sdk import hookimpl

SLEEP = 100.0
PLUGINS: dict[tuple[str, str], Callable[..., Any]] = {}
_over = threading.Event()


def _base(kind: str) -> type:
    """The driver from which a hostile driver derives. It is imported here, because monitors import this module too, and must
    not load modules that only the daemon needs."""
    if kind == "log":
        from orlop_log_jsonfile.driver import JsonFile as base
    elif kind == "volume":
        from orlop_volume_local.driver import LocalVolumes as base
    elif kind == "network":
        from orlop_net_none.driver import NoneDriver as base
    else:
        from orlop_runtime_runc.driver import Runc as base
    return base


def hostile(kind: str, **members: Any) -> Callable[..., Any]:
    """A factory of the base driver with these members replaced."""

    def factory(*context: Any) -> Any:
        base = _base(kind)
        own = dict(members)
        if kind == "network":
            from orlop_sdk import NetworkCapabilities

            capabilities = NetworkCapabilities(addresses=False, publishes=False)
            own.setdefault("capabilities", property(lambda self: capabilities))
        return type(f"Hostile{base.__name__}", (base,), own)(*context)

    return factory


class Plugin:
    """The object that an entry point names. It registers one factory."""

    def __init__(self, name: str, factory: Callable[..., Any]) -> None:
        self._name, self._factory = name, factory

    def _register(self, register: Callable[..., Any]) -> None:
        register(self._name, self._factory, spi_version=1)

    @hookimpl
    def orlop_log(self, register: Callable[..., Any]) -> None:
        self._register(register)

    @hookimpl
    def orlop_volume(self, register: Callable[..., Any]) -> None:
        self._register(register)

    @hookimpl
    def orlop_network(self, register: Callable[..., Any]) -> None:
        self._register(register)

    @hookimpl
    def orlop_runtime(self, register: Callable[..., Any]) -> None:
        self._register(register)


def __getattr__(attribute: str) -> Any:
    for (kind, name), factory in PLUGINS.items():
        if attribute == f"{kind}_{name.replace('-', '_')}":
            return Plugin(name, factory)
    raise AttributeError(attribute)


# --- faults -----------------------------------------------------------------------------------------------------------


def begins() -> None:
    """Write a line to the daemon's log, so that the test knows that the method was called."""
    print("hostile: a call hangs", file=sys.stderr, flush=True)


def blocks(*_: Any, **__: Any) -> Any:
    begins()
    time.sleep(SLEEP)


def catches_everything(*_: Any, **__: Any) -> Any:
    begins()
    for _ in range(10):
        try:
            time.sleep(SLEEP)
        except Exception:
            pass


def waits_for_a_lock(*_: Any, **__: Any) -> Any:
    begins()
    _over.wait(SLEEP)


def spins(*_: Any, **__: Any) -> Any:
    begins()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass


def exits(*_: Any, **__: Any) -> Any:
    raise SystemExit(3)


def interrupts(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def nothing(*_: Any, **__: Any) -> Any:
    return None


def nonsense(*_: Any, **__: Any) -> Any:
    return {"not": "a driver"}


def fails(*_: Any, **__: Any) -> Any:
    raise ValueError("out of order")


def a_number(*_: Any, **__: Any) -> Any:
    return 7


async def blocks_a_thread(*_: Any, **__: Any) -> Any:
    import trio

    begins()
    await trio.to_thread.run_sync(time.sleep, SLEEP)


async def shields_itself(*_: Any, **__: Any) -> Any:
    import trio

    begins()
    with trio.CancelScope(shield=True):
        await trio.sleep(SLEEP)


async def ignores_cancellation(*_: Any, **__: Any) -> Any:
    import trio

    begins()
    while True:
        try:
            await trio.sleep(SLEEP)
        except trio.Cancelled:
            await trio.lowlevel.cancel_shielded_checkpoint()


async def blocks_its_loop(*_: Any, **__: Any) -> Any:
    begins()
    time.sleep(SLEEP)  # noqa: ASYNC251


async def spins_in_its_loop(*_: Any, **__: Any) -> Any:
    spins()


async def returns_nothing(*_: Any, **__: Any) -> Any:
    return None


async def raises_exit(*_: Any, **__: Any) -> Any:
    raise SystemExit(3)


async def raises_interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


async def ends_its_loop(*_: Any, **__: Any) -> Any:
    import trio

    async def fail() -> None:
        raise RuntimeError("a system task that raises")

    trio.lowlevel.spawn_system_task(fail)
    await trio.sleep(SLEEP)


async def forgets_to_await(*_: Any, **__: Any) -> Any:
    return blocks_its_loop()


class Writer:
    def __init__(self, write: Callable[..., Any]) -> None:
        self._write = write

    def write(self, blocks: Any) -> Any:
        return self._write(blocks)

    def close(self) -> None:
        pass


class Dropper(Writer):
    """Counts the lines that it drops."""

    def __init__(self) -> None:
        super().__init__(self._drop)
        self.dropped = 0

    def _drop(self, blocks: Any) -> None:
        self.dropped += sum(block.data.count(b"\n") for block in blocks)


class Throttled(Writer):
    @property
    def full(self) -> Any:
        return fails()


class Reader:
    def __init__(self, **members: Callable[..., Any]) -> None:
        self._members = members

    def read(self) -> Any:
        return self._members.get("read", list)()

    def fileno(self) -> Any:
        return self._members.get("fileno", lambda: 0)()

    def close(self) -> Any:
        return self._members.get("close", nothing)()


def writer(write: Callable[..., Any]) -> Callable[..., Any]:
    return hostile("log", open_writer=lambda *_: Writer(write))


def reader(**members: Callable[..., Any]) -> Callable[..., Any]:
    return hostile("log", open_reader=lambda *_: Reader(**members))


class Options(msgspec.Struct):
    readable: bool = True


PLUGINS |= {
    ("log", "factory-hangs"): blocks,
    ("log", "factory-exits"): exits,
    ("log", "factory-none"): nothing,
    ("log", "factory-nonsense"): nonsense,
    ("log", "lacks-method"): hostile("log", open_writer=None),
    ("log", "wrong-signature"): hostile("log", validate=lambda self: None),
    ("log", "async-validate"): hostile("log", validate=returns_nothing),
    ("log", "validate-hangs"): hostile("log", validate=blocks),
    ("log", "validate-spins"): hostile("log", validate=spins),
    ("log", "validate-locked"): hostile("log", validate=waits_for_a_lock),
    ("log", "validate-exits"): hostile("log", validate=exits),
    ("log", "path-hangs"): hostile("log", path=blocks, open_writer=lambda *_: Writer(nothing)),
    ("log", "path-number"): hostile("log", path=a_number, open_writer=lambda *_: Writer(nothing)),
    ("log", "property-hangs"): hostile("log", capabilities=property(blocks)),
    ("log", "property-wrong"): hostile("log", capabilities=Options()),
    ("log", "open-hangs"): hostile("log", open_writer=blocks),
    ("log", "open-exits"): hostile("log", open_writer=exits),
    ("log", "open-none"): hostile("log", open_writer=nothing),
    ("log", "write-hangs"): writer(blocks),
    ("log", "write-catches"): writer(catches_everything),
    ("log", "write-blocks-ring"): writer(blocks),
    ("log", "write-drops"): hostile("log", open_writer=lambda *_: Dropper()),
    ("log", "full-raises"): hostile("log", open_writer=lambda *_: Throttled(nothing)),
    ("log", "write-raises"): writer(fails),
    ("log", "write-exits"): writer(exits),
    ("log", "read-interrupts"): reader(read=interrupts),
    ("log", "read-hangs"): reader(read=blocks),
    ("log", "fileno-hangs"): reader(fileno=blocks),
    ("log", "close-hangs"): reader(close=blocks),
    ("volume", "factory-raises"): fails,
    ("volume", "create-thread"): hostile("volume", create=blocks_a_thread),
    ("volume", "create-shielded"): hostile("volume", create=shields_itself),
    ("volume", "create-stubborn"): hostile("volume", create=ignores_cancellation),
    ("volume", "create-blocks"): hostile("volume", create=blocks_its_loop),
    ("volume", "create-spins"): hostile("volume", create=spins_in_its_loop),
    ("volume", "create-none"): hostile("volume", create=returns_nothing),
    ("volume", "create-exits"): hostile("volume", create=raises_exit),
    ("volume", "create-ends-loop"): hostile("volume", create=ends_its_loop),
    ("volume", "create-coroutine"): hostile("volume", create=forgets_to_await),
    ("volume", "mounts-hangs"): hostile("volume", mounts=blocks_its_loop),
    ("volume", "remove-hangs"): hostile("volume", remove=blocks_its_loop),
    ("network", "create-hangs"): hostile("network", create_network=blocks_its_loop),
    ("network", "attach-thread"): hostile("network", attach=blocks_a_thread),
    ("network", "attach-shielded"): hostile("network", attach=shields_itself),
    ("network", "attach-none"): hostile("network", attach=returns_nothing),
    ("network", "attach-interrupts"): hostile("network", attach=raises_interrupt),
    ("network", "detach-hangs"): hostile("network", detach=blocks_its_loop),
    ("network", "detach-thread"): hostile("network", detach=blocks_a_thread),
    ("runtime", "factory-runtime-none"): nothing,
    ("runtime", "run-hangs"): hostile("runtime", run=blocks),
    ("runtime", "run-none"): hostile("runtime", run=nothing),
    ("runtime", "run-exits"): hostile("runtime", run=exits),
    ("runtime", "delete-hangs"): hostile("runtime", delete=blocks),
    ("runtime", "exec-hangs"): hostile("runtime", exec=blocks),
    ("runtime", "pause-raises"): hostile("runtime", pause=fails),
    ("runtime", "mounts-nonsense"): hostile("runtime", monitor_mounts=a_number),
    ("runtime", "features-hang"): hostile("runtime", features=blocks, version=blocks),
}
