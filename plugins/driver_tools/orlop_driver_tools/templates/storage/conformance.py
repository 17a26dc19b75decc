from __future__ import annotations

import pytest
from orlop_mydriver import MyDriver

from orlop_sdk.testing import StorageFactory, StorageSuite


class TestMyDriver(StorageSuite):
    @pytest.fixture
    def factory(self) -> StorageFactory:
        return MyDriver
