from __future__ import annotations

import pytest
from orlop_mydriver import MyDriver

from orlop_sdk.testing import VolumeFactory, VolumeSuite


class TestMyDriver(VolumeSuite):
    @pytest.fixture
    def factory(self) -> VolumeFactory:
        return MyDriver
