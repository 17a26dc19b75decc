"""A monitor that has run out of file descriptors, and the descriptor limit of the programs that it starts."""

from __future__ import annotations

import resource
from pathlib import Path

from subprocesses import in_a_process


def test_listener_of_the_monitor_pauses_when_descriptors_run_out(tmp_path: Path) -> None:
    assert in_a_process(
        f"""
import resource, socket
from orlop_monitor.connection import Listener
class Counting(Listener):
    def _accept(self):
        said.append("tried")
        super()._accept()
listener = Counting(loop, {str(tmp_path)!r}, lambda sock: (said.append("came"), loop.stop()))
client = socket.socket(socket.AF_UNIX)
client.connect({str(tmp_path)!r} + "/sock")
lowest_free = os.dup(0)
os.close(lowest_free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
loop.call_later(0.35, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
loop.run()
print(said[-1], said.count("tried") < 9)
"""
    ) == ["came", "True"]


def test_name_server_pauses_tcp_when_descriptors_run_out() -> None:
    """While no descriptor is free, the name server answers by UDP. It answers by TCP when descriptors are free again."""
    assert in_a_process(
        """
import resource, socket, struct, types
from orlop_monitor.dns import server, wire
def bind(self, port):
    pair = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for sock in pair:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    pair[1].listen()
    return pair
server.NameServer._bind = bind
server.NameServer._redirect = lambda self: None
class Counting(server.NameServer):
    def _accept(self):
        said.append("tried")
        super()._accept()
tables = types.SimpleNamespace(answer=lambda kind, name: [wire.address_record("10.0.0.1")])
names = Counting(loop, -1, tables, lambda: None)
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + bytes((3,)) + b"web" + bytes((0, 0, 1, 0, 1))
udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
tcp.connect(names._tcp.getsockname())
tcp.sendall(struct.pack("!H", len(query)) + query)
lowest_free = os.dup(0)
os.close(lowest_free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
udp.connect(names._udp.getsockname())
udp.send(query)
loop.on_readable(udp.fileno(), lambda: said.append("answered") or loop.on_readable(udp.fileno(), None))
loop.on_readable(tcp.fileno(), lambda: said.append("came") or loop.stop())
loop.call_later(0.35, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
loop.run()
names.close()
print(said[-1], said.index("answered") < said.index("came"), said.count("tried") < 9)
"""
    ) == ["came", "True", "True"]


def test_name_server_closed_during_the_pause_does_not_accept() -> None:
    """After `close`, a delayed accept must not use the descriptor numbers of closed sockets, which may be reused."""
    assert in_a_process(
        """
import errno, types
from orlop_monitor.dns import server
class Scarce:
    def fileno(self): return 99
    def close(self): pass
    def accept(self): raise OSError(errno.EMFILE, "Too many open files")
server.NameServer._bind = lambda self, port: (Scarce(), Scarce())
server.NameServer._redirect = lambda self: None
loop.on_readable = lambda fd, callback: said.append(callback is not None)
loop.forget = lambda fd: None
names = server.NameServer(loop, -1, None, lambda: None)
names._accept()
names.close()
loop.call_later(0.2, loop.stop)
loop.run()
print(said)
"""
    ) == ["[True,", "True,", "False]"]


def test_monitor_raises_its_descriptor_limit_but_not_its_childrens() -> None:
    assert in_a_process(
        """
import resource
from orlop_monitor import commands
from orlop_sdk import Command
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
commands.raise_file_limit()
shell = Command(("sh", "-c", "ulimit -Sn; ulimit -Hn"), (("PATH", "/bin:/usr/bin"),))
commands.run(loop, shell, (0, 1, 2), lambda status, timed_out: loop.stop())
loop.run()
print(hard, resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard))
"""
    ) == ["500", hard := str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), hard, "True"]
