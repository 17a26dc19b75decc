"""Lists the areas: the code whose guards must be tested, and the tests that must fail if the guards are changed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AREAS", "Area"]


@dataclass(frozen=True)
class Area:
    """The code in `modules` is changed. `tests` are files or directories of tests. With `root`, tests that need root are
    run, too."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    root: bool = False


def _in(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


AREAS = {
    "access": Area(
        _in(
            "orlop_guard_listeners",
            "authz guard host_access image_names inherited_access label_scope listener_policy objects redact roles",
        ),
        ("plugins/guard_listeners/tests", "tests/unit/access"),
    ),
    "crash-ordering": Area(
        (
            "orlop_kernel.store",
            "orlop_engine.images.content",
            "orlop_engine.images.leases",
            "orlop_engine.volumes.service",
            "orlop_storage_overlay2.driver",
            "orlop_storage_overlay2.host",
            "orlop_sdk.trees._overlay",
            "orlop_sdk.trees._storage",
            "orlop_sdk.snapshots",
            "orlop_sdk.files",
        ),
        (
            "kernel/tests/test_store.py",
            "engine/tests/images",
            "tests/unit/images",
            "engine/tests/test_volumes.py",
            "plugins/storage_overlay2/tests",
            "sdk/tests/test_snapshots.py",
            "sdk/tests/test_storage_files.py",
            "sdk/tests/test_trees.py",
        ),
        root=True,
    ),
    "unpack": Area(
        # The modules binds, copyup and view are left out, because they mount. The tests test_cp_mounts, test_files and
        # test_unpack_worker in tests/integration cover these modules as root, in separate processes.
        _in("orlop_monitor.unpack", "archive extract header layer request stream tree whiteout zstd_frames"),
        (
            "monitor/tests/test_unpack.py",
            "monitor/tests/test_unpack_archive.py",
            "monitor/tests/test_unpack_extract.py",
            "monitor/tests/test_unpack_stream.py",
            "monitor/tests/test_pack.py",
        ),
        root=True,  # the tests make device nodes, and files of other owners
    ),
    "lifecycle": Area(
        _in(
            "orlop_engine.containers", "adoption exits launch lifecycle pausing removal restarts restore rows state stopping"
        ),
        ("engine/tests/containers",),
    ),
}
