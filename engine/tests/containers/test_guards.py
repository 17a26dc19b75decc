"""Guards that no other test covers. The undo of a start continues if its caller is cancelled. A paused container is not
started. A pause does not survive a kill. A stop by a user prevents a restart.
"""

from types import SimpleNamespace

import pytest
import trio
from engine_fixture import FakeRuntime, RealLaunch, engine_fixture, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine import commands
from orlop_engine.containers.launch import launch
from orlop_engine.types.containers import RestartPolicy
from orlop_sdk import Conflict


@pytest.mark.parametrize("cut", ["start", "bundle"])
def test_cancelled_start_is_undone_completely(tmp_path, monkeypatch, cut):
    """For example, a start is cancelled when the daemon ends. Without a shield, the undo would end at its first await."""

    async def main():
        async with engine_fixture(tmp_path, None) as h, trio.open_nursery() as nursery:
            real = RealLaunch(h, monkeypatch)
            h.engine.networks.plan_made = plan = SimpleNamespace(sockets=[], forwards=[])
            release, waited = h.engine.networks.release, []

            async def slow_release(sandbox):
                await trio.sleep(1)
                await release(sandbox)

            async def forever(*of):
                waited.append(cut)
                await trio.sleep_forever()

            h.engine.networks.release = slow_release
            if cut == "bundle":
                monkeypatch.setattr("orlop_engine.containers.bundle.write", forever)
            else:
                real.hang = forever
            nursery.start_soon(launch, h.ports, h.container)
            await wait_all_tasks_blocked()
            assert waited == [cut]
            nursery.cancel_scope.cancel()
        assert h.engine.networks.abandoned == [plan] and len(h.engine.networks.released) == 1
        assert real.monitors[0].gone.is_set() and h.container.run is None and h.container.record.sandbox is None

    run_fast(main)


def test_a_paused_container_is_not_started(tmp_path, monkeypatch, frozen):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            await h.containers.start(h.container)
            await h.containers.pause(h.container)
            with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
                await h.containers.start(h.container)
            assert len(h.launched) == 1 and h.container.record.state.paused and frozen == ["pause"]

    run_fast(main)


@pytest.fixture
def frozen(monkeypatch):
    """A list of the runtime's commands that were run; all succeed. `frozen.first` is called before each command."""

    class Asked(list):
        first = staticmethod(lambda verb: None)

    asked = Asked()

    async def check(command, what):
        await trio.lowlevel.checkpoint()
        verb = what.split()[0]
        asked.append(verb)
        asked.first(verb)

    monkeypatch.setattr(commands, "check", check)
    monkeypatch.setattr(FakeRuntime, "pause", FakeRuntime.delete)
    return asked


@pytest.mark.parametrize("by", ["kill", "rm"])
def test_container_that_is_killed_during_a_pause_is_not_left_frozen(tmp_path, monkeypatch, frozen, by):
    """SIGKILL arrives while the runtime freezes the container: a frozen process does not die (cgroup v1)."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            await h.containers.start(h.container)
            run = h.run

            async def held_back(signum):  # the signal is pending, but the process is frozen
                await trio.sleep(2)
                if frozen[-1] == "unpause":
                    run.monitor.exit(137)

            run.monitor.signal = held_back

            def killed(verb):
                if verb == "pause":
                    if by == "kill":
                        nursery.start_soon(h.containers.kill, h.container, "KILL")
                    else:
                        nursery.start_soon(h.containers.remove, h.container, True, False)

            frozen.first = killed

            async def freeze(command, what, check=commands.check):
                await check(command, what)
                await wait_for(lambda: run.killed)

            monkeypatch.setattr(commands, "check", freeze)
            with pytest.raises(Conflict, match="is not running"):
                await h.containers.pause(h.container)
            assert frozen == ["pause", "unpause"] and not h.container.record.state.paused
            await run.finished.wait()
            assert h.container.record.state.exit_code == 137

    run_fast(main)


async def wait_for(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await trio.sleep(0.1)


@pytest.mark.parametrize(
    "policy, how, again",
    [
        ("unless-stopped", "TERM", False),
        ("unless-stopped", "HUP", False),
        ("unless-stopped", "KILL", False),
        ("always", "HUP", True),
        ("always", "KILL", False),
        ("unless-stopped", "", True),
        ("always", "", True),
    ],
)
def test_restart_policies_treat_a_kill_by_a_user_as_a_stop(tmp_path, monkeypatch, policy, how, again):
    """As in Docker, any signal that a user sends prevents a restart by the policy `unless-stopped`. A signal that ends the
    container also prevents a restart by the policy `always`, until the container or the daemon is started again. With `how`
    "", the container exits by itself."""

    async def main():
        async with engine_fixture(tmp_path, monkeypatch, restart_policy=RestartPolicy(name=policy)) as h:
            h.container.record.config.stop_signal = "TERM"
            await h.containers.start(h.container)
            first = h.run
            if how:
                await h.containers.kill(h.container, how)
            if not first.finished.is_set():
                first.monitor.exit(1)
            await trio.sleep(5)
            assert len(h.launched) == (2 if again else 1)
            assert h.container.record.state.status == ("running" if again else "exited")
            assert h.container.record.manually_stopped == (bool(how) and not again)

    run_fast(main)
