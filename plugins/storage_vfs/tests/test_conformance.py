"""Conformance suite for storage drivers, with vfs."""

from __future__ import annotations

import pytest

from orlop_sdk.testing import StorageFactory, StorageSuite
from orlop_storage_vfs import Vfs


class TestVfs(StorageSuite):
    @pytest.fixture
    def factory(self) -> StorageFactory:
        return Vfs
