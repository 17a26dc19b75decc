"""Order of notifications when a container ends: the exit is recorded before the stream ends; `destroy` is published after
name and volumes are removed, and before snapshot and files are removed.
"""

import os

import pytest
import trio
from engine_fixture import NoVolumes, engine_fixture, no_threads, run_fast
from trio.testing import wait_all_tasks_blocked

from orlop_engine.containers import attach, connections
from orlop_engine.containers.record import MountRecord
from orlop_engine.types.containers import HostConfig
from orlop_monitor.protocol import Attach, Exited
from orlop_sdk import DriverError

ANONYMOUS = MountRecord(type="volume", destination="/v", name="anon", anonymous=True)


class Client:
    """A connection without input. It records the state of the container at the time its stream ended."""

    def __init__(self, see):
        self.see, self.received, self.at_the_end, self.ended = see, b"", None, trio.Event()

    async def receive_some(self, limit=65536):
        await trio.sleep_forever()

    hung_up = receive_some

    async def send_all(self, data):
        self.received += data

    async def send_eof(self):
        self.at_the_end = self.see()
        self.ended.set()


@pytest.mark.parametrize("before_start", [False, True])
def test_attached_stream_ends_after_the_exit_is_recorded_and_the_network_is_released(tmp_path, monkeypatch, before_start):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h, trio.open_nursery() as nursery:
            containers, container = h.containers, h.container
            ours, theirs = trio.testing.memory_stream_pair()
            client = Client(lambda: (container.record.state.running, container.record.state.exit_code, containers.released))
            containers.released = False

            async def release(ports, container):
                await trio.sleep(1)
                containers.released = True

            monkeypatch.setattr(connections, "release", release)
            if not before_start:
                await containers.start(container)
                h.run.monitor.attach = lambda request: _ready(ours)
            nursery.start_soon(containers.attach, container, client, Attach(stdout=True), b"")
            await wait_all_tasks_blocked()
            if before_start:
                await containers.start(container)
                (waiter,) = container.attach_waiters
                container.attach_waiters.clear()
                waiter.joined.set(attach.Joined(ours, h.run))
            await theirs.send_all(b"output")
            await theirs.aclose()  # the monitor has reported the exit; the daemon has not recorded the exit yet
            await wait_all_tasks_blocked()
            assert (client.received, client.at_the_end) == (b"output", None)
            h.run.monitor.exit(7)
            with trio.fail_after(10):
                await client.ended.wait()
            assert client.at_the_end == (False, 7, True)

    run_fast(main)


async def _ready(stream):
    await trio.lowlevel.checkpoint()
    return stream


class Volumes(NoVolumes):
    def __init__(self):
        self.names = {"anon"}

    async def remove(self, name):
        await trio.sleep(0.1)
        self.names.remove(name)


@pytest.mark.parametrize("by", ["the end of --rm", "rm -v"])
def test_removal_is_published_after_row_deletion_and_answered_after_file_removal(tmp_path, monkeypatch, by):
    """The event is published after the row was deleted. The request is answered after the files were removed."""

    async def main():
        async with (
            engine_fixture(tmp_path, monkeypatch, auto_remove=by == "the end of --rm") as h,
            trio.open_nursery() as nursery,
        ):
            no_threads(monkeypatch)
            h.engine.volumes = Volumes()
            h.container.record.mounts = (ANONYMOUS,)
            told = []

            def look(what):
                told.append((what, sorted(h.engine.volumes.names), h.engine.storage.removed, h.index.names))

            discard = h.engine.storage.remove

            async def discard_slowly(key):
                await trio.sleep(0.1)
                await discard(key)

            h.engine.storage.remove = discard_slowly
            publish = h.engine.events.publish
            h.engine.events.publish = lambda kind, action, *rest: (
                action == "destroy" and look("event"),
                publish(kind, action, *rest),
            )

            async def wait(pending):
                await pending.get()
                look("wait")

            async def answer():
                await h.containers.remove(h.container, False, True)
                look("answer")

            await h.containers.start(h.container)
            os.makedirs(h.paths.directory(h.container.id))
            nursery.start_soon(wait, h.containers.waiting(h.container, "removed"))
            await wait_all_tasks_blocked()
            h.run.exited.set(Exited(0, 1))  # the monitor still runs
            await h.run.finished.wait()
            if by == "rm -v":
                nursery.start_soon(answer)
            await trio.sleep(1)
            gone = ([], (), {})
            assert told == [("event", *gone), ("wait", *gone)]
            assert h.engine.storage.removed == (h.container.id,)
            h.run.monitor.gone.set()
            await wait_all_tasks_blocked()
            answered = [("answer", [], (h.container.id,), {})] if by == "rm -v" else []
            assert told[2:] == answered and not os.path.exists(h.paths.directory(h.container.id))

    run_fast(main)


def test_mounted_root_file_system_is_removed_after_the_monitor_ends(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            removed = h.engine.storage.remove

            async def remove(key):
                if not h.run.monitor.gone.is_set():
                    raise DriverError("cannot remove snapshot: device or resource busy")
                await removed(key)

            h.engine.storage.remove = remove
            await h.containers.start(h.container)
            h.run.exited.set(Exited(0, 1))
            with trio.fail_after(5):
                await h.container.removed.get()
            assert h.engine.storage.removed == ()
            h.run.monitor.gone.set()
            await trio.sleep(1)
            assert h.engine.storage.removed == (h.container.id,)

    run_fast(main)


def test_mounted_volume_is_removed_after_the_monitor_ends(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch, auto_remove=True) as h:
            finished = []

            async def remove(name):
                raise DriverError("cannot remove volume: device or resource busy")

            async def finish_removal(name):
                finished.append((name, h.run.monitor.gone.is_set()))

            h.engine.volumes = NoVolumes(remove=remove, finish_removal=finish_removal)
            h.container.record.mounts = (ANONYMOUS,)
            await h.containers.start(h.container)
            h.run.exited.set(Exited(0, 1))
            with trio.fail_after(5):
                await h.container.removed.get()
            assert finished == []
            h.run.monitor.gone.set()
            await trio.sleep(1)
            assert finished == [("anon", True)]

    run_fast(main)


def test_processes_in_a_shared_pid_namespace_end_before_their_files_are_removed(tmp_path, monkeypatch):
    async def main():
        async with engine_fixture(tmp_path, monkeypatch) as h:
            h.container.record.host_config = HostConfig(auto_remove=True, pid_mode="host", network_mode="bridge")
            await h.containers.start(h.container)
            h.run.exited.set(Exited(0, 1))
            await trio.sleep(1)
            assert h.engine.storage.removed == () and not h.container.removed.is_set()
            h.run.monitor.gone.set()
            await trio.sleep(1)
            assert h.engine.storage.removed == (h.container.id,) and h.container.removed.is_set()

    run_fast(main)
