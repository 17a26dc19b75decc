"""The driver, and the socket of the journal."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence

from orlop_sdk import DriverError, LogInfo, LogWriter
from orlop_sdk.logfiles import ATTRIBUTE_OPTIONS, check_options, log_tag, selected_attributes
from orlop_sdk.logsending import DatagramSender, LogLine, SendingWriter, ServiceLog

from .entries import Entries, fields

__all__ = ["Journald"]

_SOCKET = "/run/systemd/journal/socket"
_SEALS = 0xF  # F_SEAL_SEAL, _SHRINK, _GROW and _WRITE, because the journal accepts only files that cannot change
_F_ADD_SEALS = 1033
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)


class _Journal(DatagramSender):
    def __init__(self, entries: Entries, path: str) -> None:
        super().__init__(path)
        self._entries = entries

    def datagrams(self, line: LogLine) -> Sequence[bytes]:
        return (self._entries.encode(line),)

    def send_datagram(self, data: bytes) -> None:
        assert self.socket is not None
        try:
            self.socket.send(data)
        except OSError as error:
            if error.errno not in _TOO_LONG:
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        """Pass an entry that is too long for a datagram as a file in memory."""
        import fcntl

        assert self.socket is not None
        fd = os.memfd_create("orlop-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
            socket.send_fds(self.socket, [b""], [fd])
        finally:
            os.close(fd)


class Journald(ServiceLog):
    """Implements `LogDriver`. `path` is for tests."""

    def __init__(self, path: str = _SOCKET) -> None:
        self._path = path

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("journald", options, ATTRIBUTE_OPTIONS)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        if not os.path.exists(self._path):
            raise DriverError("journald is not enabled on this host")
        constant = fields(info, log_tag(info, options), selected_attributes(info, options))
        return SendingWriter("journald", _Journal(Entries(constant), self._path), options)
