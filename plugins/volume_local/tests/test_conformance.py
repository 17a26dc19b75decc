"""Conformance suite for volume drivers, with local."""

from __future__ import annotations

import pytest

from orlop_sdk.testing import VolumeFactory, VolumeSuite
from orlop_volume_local import LocalVolumes


class TestLocalVolumes(VolumeSuite):
    @pytest.fixture
    def factory(self) -> VolumeFactory:
        return LocalVolumes
