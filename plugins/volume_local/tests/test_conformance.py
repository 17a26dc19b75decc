"""local under the suite of the kernel."""

from __future__ import annotations

import pytest

from orlop_kernel.testing.volume import Factory, VolumeSuite
from orlop_volume_local import LocalVolumes


class TestLocalVolumes(VolumeSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        return LocalVolumes
