"""Conformance suite for storage drivers, with overlay2 and real overlay mounts."""

from __future__ import annotations

import pytest

from orlop_sdk.testing import StorageFactory, StorageSuite
from orlop_storage_overlay2 import Overlay2

pytestmark = pytest.mark.root


class TestOverlay2(StorageSuite):
    @pytest.fixture
    def factory(self) -> StorageFactory:
        return Overlay2
