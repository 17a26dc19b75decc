"""Conformance suite for storage drivers, with erofs and real mounts."""

from __future__ import annotations

from functools import partial

import pytest

from orlop_sdk import StorageContext
from orlop_sdk.testing import StorageFactory, StorageSuite
from orlop_storage_erofs import Erofs

pytestmark = pytest.mark.root

VARIANTS = {
    "index": (),
    "full": (("mode", "full"),),
    "zstd": (("mode", "full"), ("compression", "zstd,level=3")),
    "loop": (("mount", "loop"), ("verify", "digest")),
}


def _opened(options: tuple[tuple[str, str], ...], context: StorageContext) -> Erofs:
    return Erofs(StorageContext(context.root, options))


@pytest.mark.parametrize("variant", VARIANTS)
class TestErofs(StorageSuite):
    @pytest.fixture
    def factory(self, variant: str) -> StorageFactory:
        return partial(_opened, VARIANTS[variant])
