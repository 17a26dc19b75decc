"""The fake storage driver keeps the contract that real ones keep."""

from __future__ import annotations

import pytest

from orlop_sdk.testing.storage import Factory, FakeStorage, StorageSuite


class TestFakeStorage(StorageSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        return FakeStorage
