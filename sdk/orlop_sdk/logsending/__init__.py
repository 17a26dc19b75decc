"""For log drivers that send to a service: one queue and one thread per container, connections that are opened again, and
the settings which such drivers share.

A driver implements `Sender`: how to connect, and how to send some lines. `SendingWriter` is its `LogWriter`. Most senders
subclass `StreamSender` or `DatagramSender` and implement only `encode`.

A service that is down or hangs never blocks the container: lines that do not fit into the queue are dropped and counted. A
service that keeps up only slows a burst of output down. With the option `mode=blocking`, the container waits for the
service; with `mode=non-blocking` it never does.

`orlop_sdk` does not import this package, so that only these drivers pay for the import.
"""

from ._addresses import split_address
from ._connections import DatagramSender, StreamSender, Tls
from ._lines import Lines, LogLine, Part
from ._options import boolean, duration, unsigned
from ._writer import Sender, SendingWriter

__all__ = [
    "DatagramSender",
    "Lines",
    "LogLine",
    "Part",
    "Sender",
    "SendingWriter",
    "StreamSender",
    "Tls",
    "boolean",
    "duration",
    "split_address",
    "unsigned",
]
