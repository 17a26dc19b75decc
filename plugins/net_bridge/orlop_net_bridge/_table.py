"""The nftables table of this daemon, and its accept rules in Docker's chain. Only the network thread (see
`orlop_sdk.networking.Worker`) calls this module.

`Table` keeps a connection to nftables. The wanted content of the table is passed as arguments.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cache
from typing import Any

from orlop_sdk import DriverError, linux

from . import _docker_user, _plan
from ._nft import NftError, open_nft

__all__ = ["Table"]


class Table:
    """The table in the kernel. If a transaction is refused, methods raise `NftError` (a `DriverError`), and no part of the
    transaction is applied."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nft = open_nft()

    def close(self) -> None:
        self._nft.close()

    # --- reading ----------------------------------------------------------------------------------------------------

    def listing(self) -> dict[str, Any]:
        """The table as nft's JSON; {} if the table does not exist."""
        try:
            return self._nft.read(f"list table inet {self.name}", f"list table {self.name}")
        except NftError as error:
            if error.missing:
                return {}
            raise

    def held(self) -> frozenset[_plan.Element] | None:
        """The elements of the kernel's table. None if another version or program has written the table: the table must then
        be replaced."""
        return _plan.read_elements(self.listing())

    def is_whole(self, listing: dict[str, Any]) -> bool:
        """Whether a listed table has the sets, chains and rules that this daemon writes, and no others."""
        return _plan.structure(listing) == _reference()

    # --- changing ---------------------------------------------------------------------------------------------------

    def add(self, elements: Collection[_plan.Element], what: str) -> None:
        self._nft.run(_plan.add_elements(self.name, elements), what)

    def ensure(self, elements: frozenset[_plan.Element], what: str) -> None:
        """Create the table if it is missing, and add these elements to it."""
        self._nft.run(_plan.update_table(self.name, frozenset(), elements), what)

    def delete(self, elements: Collection[_plan.Element], what: str) -> None:
        self._nft.run(_plan.delete_elements(self.name, elements), what)

    def delete_present(self, elements: frozenset[_plan.Element], what: str) -> None:
        """Delete the elements that are in the table, and ignore all others."""
        held = self.held()
        if gone := elements if held is None else elements & held:
            self.delete(gone, what)

    def settle(self, wanted: frozenset[_plan.Element], *, keep: bool = False) -> None:
        """Change the table so that it contains exactly `wanted`, in one transaction. `keep`: also keep other elements that
        do not conflict with `wanted`."""
        held = self.held()
        what = f"restore table {self.name}"
        if held is not None:
            if keep:
                wanted = _plan.keep_compatible(wanted, held)
            try:
                self._nft.run(_plan.update_table(self.name, held, wanted), what)
                return
            except NftError:
                pass  # another version wrote the sets of the table, so replace the whole table
        self._nft.run(_plan.replace_table(self.name, wanted), what)

    def rebuild(self, wanted: frozenset[_plan.Element]) -> None:
        """Replace the whole table by `wanted`, including sets and chains that other programs added."""
        self._nft.run(_plan.replace_table(self.name, wanted), f"restore table {self.name}")

    def remove(self) -> None:
        self._nft.run(_plan.delete_table(self.name), f"delete table {self.name}")

    # --- Docker's ---------------------------------------------------------------------------------------------------

    def admit(self, bridges: list[str]) -> None:
        _docker_user.admit(self._nft, self.name, bridges)

    def withdraw(self, keep: list[str]) -> None:
        """Remove this daemon's accept rules from DOCKER-USER for all bridges except `keep`."""
        _docker_user.withdraw(self._nft, self.name, keep)

    def not_admitted(self, bridges: list[str]) -> list[str]:
        return _docker_user.lacking(self._nft, self.name, bridges)


@cache
def _reference() -> dict[str, Any]:
    """The structure of an unmodified table, as this machine's nft lists it. To get it, the table is written in a new network
    namespace and listed there, because nft's listing differs between versions and from the syntax in which rules are
    written."""
    namespace = linux.new_network_namespace()
    try:
        with linux.in_network_namespace(namespace):
            table = Table("reference")
            try:
                table.ensure(frozenset(), "write a table to compare with")
                return _plan.structure(table.listing())
            finally:
                table.close()
    except OSError as error:
        raise DriverError(f"cannot compare the nftables rules: {error.strerror}") from error
    finally:
        os.close(namespace)
