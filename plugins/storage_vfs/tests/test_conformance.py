"""vfs under the suite of the kernel."""

from __future__ import annotations

import pytest

from orlop_kernel.testing.storage import Factory, StorageSuite
from orlop_storage_vfs import Vfs


class TestVfs(StorageSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        return Vfs
