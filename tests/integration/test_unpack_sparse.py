"""Sparse files in the four forms that GNU tar writes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orlop_monitor.unpack.extract import extract
from orlop_monitor.unpack.request import Unpack
from orlop_monitor.unpack.stream import Uncompressed


@pytest.mark.parametrize("form", ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"])
def test_unpacked_sparse_files_keep_their_holes(tmp_path: Path, form: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    with open(source / ("long-" * 30 + "name"), "wb") as file:
        for block in range(40):  # more segments than fit into a header
            file.seek(block << 20)
            file.write(bytes([block + 1]) * 5000)
        file.truncate(64 << 20)
    with open(source / "hole", "wb") as file:
        file.truncate(10 << 20)
    (source / "plain").write_bytes(b"after the sparse ones")
    options = [form] if form.startswith("--format") else ["--format=posix", form]
    subprocess.run(["tar", "--sparse", *options, "-cf", tmp_path / "a.tar", "-C", source, "."], check=True)
    with open(tmp_path / "a.tar", "rb") as archive:
        root = os.open(target, os.O_RDONLY)
        try:
            with Uncompressed(archive.fileno(), 1 << 30) as stream:
                extract(stream, root, Unpack(False, ownership=os.geteuid() == 0))
        finally:
            os.close(root)
    for name in os.listdir(source):
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert os.stat(target / name).st_blocks <= os.stat(source / name).st_blocks + 8
    assert sorted(os.listdir(target)) == sorted(os.listdir(source))
