"""The fake storage driver passes the conformance suite."""

from __future__ import annotations

import pytest

from orlop_sdk.testing.storage import Factory, FakeStorage, StorageSuite


class TestFakeStorage(StorageSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        return FakeStorage
