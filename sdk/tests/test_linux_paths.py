"""Paths that are opened below a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop_sdk import linux


@pytest.mark.parametrize("opened", [linux.open_in_root, linux.open_beneath])
def test_a_path_with_nul_is_refused(tmp_path: Path, opened: object) -> None:
    """The kernel would open the path before the NUL, which is not the path that was checked."""
    (tmp_path / "file").write_text("")
    root = os.open(tmp_path, os.O_PATH)
    try:
        os.close(opened(root, "file", os.O_RDONLY))  # type: ignore[operator]
        for path in ("file\0", b"file\0.txt"):
            with pytest.raises(ValueError, match="null byte"):
                opened(root, path, os.O_RDONLY)  # type: ignore[operator]
    finally:
        os.close(root)
