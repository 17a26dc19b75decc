"""`orlop system dial-stdio`: the command that a client with `ssh://` runs on the daemon's machine."""

from __future__ import annotations

import _socket
import os

from orlop_cli._command import command
from orlop_cli.attached.streams import write_all
from orlop_cli.daemon import hosts
from orlop_cli.daemon.http import RECEIVE

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session
    from orlop_cli.daemon.http import Stream


@command(
    "dial-stdio",
    "Connect standard input and output with the daemon",
    examples=["orlop system dial-stdio    run by `orlop -H ssh://HOST` on HOST"],
)
def dial_stdio(session: Session, args: tuple[str, ...]) -> None:
    import threading

    stream = hosts.connect(session.address, session.tls())
    threading.Thread(target=_send, args=(stream,), daemon=True).start()
    while data := stream.recv(RECEIVE):
        write_all(1, data)


def _send(stream: Stream) -> None:
    try:
        while data := os.read(0, RECEIVE):
            stream.sendall(data)
        stream.shutdown(_socket.SHUT_WR)
    except OSError:
        pass  # the daemon has closed the connection; the main thread notices the end
