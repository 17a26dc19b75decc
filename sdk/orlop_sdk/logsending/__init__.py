"""Shared parts of the log drivers that send to a service: a queue and a thread for each container, connections that are
opened again after a failure, and common settings.

A driver implements `Sender`: how to connect, and how to send some lines. `SendingWriter` is its `LogWriter`. Most senders
subclass `StreamSender` or `DatagramSender` and implement only `encode`.

By default, a service that is down or hangs does not block the container: lines that do not fit into the queue are dropped
and counted. A full queue makes the container wait only if the service takes lines at a sufficient rate. With the option
`mode=blocking`, the container always waits for the service; with `mode=non-blocking`, it never waits.

`orlop_sdk` does not import this package, so that programs without such drivers need not load it.
"""

from ._addresses import split_address
from ._connections import DatagramSender, StreamSender, Tls
from ._driver import ServiceLog
from ._lines import Item, LogLine, Numbering, Part, lines_of
from ._options import boolean, duration, unsigned
from ._writer import Sender, SendingWriter

__all__ = [
    "DatagramSender",
    "Item",
    "LogLine",
    "Numbering",
    "Part",
    "Sender",
    "SendingWriter",
    "ServiceLog",
    "StreamSender",
    "Tls",
    "boolean",
    "duration",
    "lines_of",
    "split_address",
    "unsigned",
]
