"""Discovery of plugins by entry point."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import DistributionFinder, MetadataPathFinder, distributions
from pathlib import Path
from types import ModuleType

import pytest

from orlop_sdk import DriverError, NotFound, discovery, entrypoints, hooks
from orlop_sdk.entrypoints import EntryPoint

_INFO = {
    "METADATA": "Metadata-Version: 2.4\nName: My.Plugin\nVersion: 1.2\nName: other\n\nText.\nVersion: 9\n",
    "entry_points.txt": (
        "# comment = x\n\n[orlop.log]\n tsv = my_tsv : made.of [extra]\n#no = x\n[console_scripts]\nmy=m:main\n"
    ),
}


def test_list_of_plugins_is_cached_and_later_contains_new_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scan of the installed distributions, which takes milliseconds, serves many lookups; a later scan finds new
    plugins."""
    points = [EntryPoint("a", "nowhere", "orlop.log"), EntryPoint("x", "nowhere", "console_scripts")]
    now, scans = [100.0], [0]

    def all_points() -> list[EntryPoint]:
        scans[0] += 1
        return list(points)

    monkeypatch.setattr(discovery, "_scanned", (0.0, {}))
    monkeypatch.setattr(discovery.entrypoints, "every", all_points)
    monkeypatch.setattr(discovery.time, "monotonic", lambda: now[0])
    for _ in range(20):
        assert discovery.installed("log") == ["a"]
        assert discovery.installed("storage") == []
    assert scans == [1]
    points.append(EntryPoint("b", "nowhere", "orlop.log"))
    with pytest.raises(NotFound, match='cannot find log driver "b": installed log drivers are: a'):
        discovery.find("log", "b")
    now[0] += 60
    with pytest.raises(discovery.DriverError, match='cannot load log driver "b"'):
        discovery.find("log", "b")
    assert discovery.installed("log") == ["a", "b"]
    assert scans == [2]


def _by_metadata() -> list[tuple[str, str, str]]:
    return [(point.group, point.name, point.value) for found in distributions() for point in found.entry_points]


def _found() -> list[tuple[str, str, str]]:
    return [(point.group, point.name, point.value) for point in entrypoints.every()]


def test_entry_points_equal_those_of_importlib_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "My.Plugin-1.2.dist-info"
    own.mkdir()
    for name, text in _INFO.items():
        (own / name).write_text(text)
    (tmp_path / "x-1.egg-info").mkdir()
    (tmp_path / "x-1.egg-info" / "entry_points.txt").write_text("[orlop.log]\nx = y\n")
    (tmp_path / "file.egg-info").write_text("Name: z\n")
    (tmp_path / "broken-1.dist-info").mkdir()
    broken = tmp_path / "broken-1.dist-info" / "entry_points.txt"
    broken.write_bytes(b"[orlop.log]\n\xff = y\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path, str(tmp_path / "absent.zip")])
    assert entrypoints._only_directories()
    found = list(entrypoints.every())
    broken.write_text("x = no group\n[orlop.log]\nno value\n")
    assert _found() == [(point.group, point.name, point.value) for point in found]
    broken.unlink()  # importlib.metadata raises UnicodeDecodeError or TypeError for this file
    assert _found() == _by_metadata() == [(point.group, point.name, point.value) for point in found]
    (mine,) = [point for point in found if point.name == "tsv"]
    assert mine.value == "my_tsv : made.of [extra]"
    monkeypatch.chdir("/")  # the daemon also changes its working directory after the scan
    assert mine.distribution() == ("My.Plugin", "1.2")
    assert EntryPoint("a", "b", "c", str(tmp_path / "absent")).distribution() == ("", "")


def test_entry_point_loads_its_attribute() -> None:
    assert EntryPoint("a", "os", "g").load() is os
    assert EntryPoint("a", "os:path.join", "g").load() is os.path.join
    assert EntryPoint("a", "os.path : join [extra]", "g").load() is os.path.join
    with pytest.raises(AttributeError):
        EntryPoint("a", "os:nothing", "g").load()


@pytest.mark.parametrize("where", ["zip", "finder"])
def test_plugins_in_zip_archives_and_from_metadata_finders_are_found(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in _INFO.items():
            file.writestr(f"My.Plugin-1.2.dist-info/{name}", text)
    if where == "zip":
        monkeypatch.setattr(sys, "path", [*sys.path, str(archive)])
    else:

        class Finder:
            def find_spec(self, *_: object) -> None:
                return None

            def find_distributions(self, context: object) -> object:
                return MetadataPathFinder.find_distributions(DistributionFinder.Context(path=[str(archive)]))

        monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    (mine,) = [point for point in entrypoints.every() if point.name == "tsv"]
    assert mine.distribution() == ("My.Plugin", "1.2")
    assert _found() == _by_metadata()


@pytest.mark.parametrize("kind", hooks.KINDS)
@pytest.mark.parametrize(
    ("written_for", "served", "remedy"),
    [
        (
            2,
            (1, 1),
            "for version 2 of the {kind} contract, and this Orlop has version 1; install a newer {ours}, or an",
        ),
        (1, (3, 2), "for version 1 of the {kind} contract, and this Orlop has version 3 and accepts 2 and newer; install a"),
        (0, (1, 1), "its spi_version is 0: a whole number from 1 is needed"),
        ("1", (1, 1), "its spi_version is '1': a whole number from 1 is needed"),
        (2, (3, 2), ""),
        (1, (1, 1), ""),
    ],
)
def test_plugin_for_another_contract_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str, written_for: object, served: tuple[int, int], remedy: str
) -> None:
    known = hooks.KINDS[kind]
    module = ModuleType("a_plugin")

    def hook(register: hooks.Register) -> None:
        register("a", object, spi_version=written_for)  # type: ignore[arg-type]

    setattr(module, known.hook, hooks.hookimpl(hook, specname=known.hook))
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    point = EntryPoint("a", "a_plugin", f"orlop.{kind}", known=("my-plugin", "1.0"))
    monkeypatch.setattr(discovery, "_scanned", (float("inf"), {kind: {"a": point}}))
    monkeypatch.setattr(discovery, "_loaded", {})
    monkeypatch.setitem(hooks.KINDS, kind, known._replace(version=served[0], oldest=served[1]))
    if not remedy:
        assert discovery.find(kind, "a").spi_version == written_for
        return
    with pytest.raises(DriverError) as caught:
        discovery.find(kind, "a")
    ours = "orlop-sdk" if known.driver else "orlop-sdk and orlop-kernel"
    assert remedy.format(kind=kind, ours=ours) in str(caught.value)
    assert "spi_version" in remedy or str(caught.value).endswith("release of my-plugin")


def _install(top: Path, distribution: str, module: str) -> None:
    (top / f"{module}.py").write_text(
        "from orlop_sdk import hookimpl\n\n@hookimpl\ndef orlop_log(register):\n"
        f"    register('same', lambda: {distribution!r}, spi_version=1)\n"
    )
    info = top / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[orlop.log]\nsame = {module}\n")


def test_plugin_name_that_two_distributions_define_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DISTRIBUTION:NAME selects a plugin, and remains valid when the other distribution is uninstalled."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(discovery, "_scanned", (float("-inf"), {}))
    for letter in "ab":
        _install(tmp_path, f"dist-{letter}", f"clash_{letter}")
    with pytest.raises(DriverError, match="several distributions register this name; write dist-a:same or dist-b:same in"):
        discovery.find("log", "same")
    assert {"dist-a:same", "dist-b:same"} <= set(discovery.installed("log")) and "same" not in discovery.installed("log")
    for letter in "ab":
        found = discovery.find("log", f"dist-{letter}:same")
        assert (found.make(), found.name, found.distribution) == (f"dist-{letter}", "same", f"dist-{letter}")
    with pytest.raises(NotFound):
        discovery.find("log", "dist-c:same")

    (tmp_path / "dist-a-1.0.dist-info" / "entry_points.txt").unlink()
    monkeypatch.setattr(discovery, "_scanned", (float("-inf"), {}))
    for name in ("same", "dist-b:same"):
        assert discovery.find("log", name).make() == "dist-b"
    with pytest.raises(NotFound):
        discovery.find("log", "dist-a:same")


def test_second_distribution_of_the_same_name_on_the_import_path_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_scanned", (float("-inf"), {}))
    for number in (1, 2):
        top = tmp_path / str(number)
        top.mkdir()
        _install(top, "dist-same", f"twice_{number}")
        monkeypatch.syspath_prepend(str(top))
    assert discovery.installed("log").count("same") == 1
    assert discovery.find("log", "same").distribution == "dist-same"


# --- drivers that no distribution registers ---------------------------------------------------------------------------


class _Finder(ModuleType):
    def __init__(self, name: str, known: str, error: BaseException | None = None) -> None:
        super().__init__(name)
        self.asked: list[tuple[str, str]] = []

        @hooks.hookimpl
        def orlop_find_driver(kind: str, name: str, looked: Callable[[str], None]) -> hooks.FoundDriver | None:
            self.asked.append((kind, name))
            if error:
                raise error
            looked(f"/{self.__name__}/{name}.sock")
            return hooks.FoundDriver(lambda: f"{name} of {self.__name__}") if name == known else None

        self.orlop_find_driver = orlop_find_driver


def _finders(monkeypatch: pytest.MonkeyPatch, *finders: _Finder) -> None:
    points = [EntryPoint("registered", "nowhere", "orlop.volume")]
    for finder in finders:
        monkeypatch.setitem(sys.modules, finder.__name__, finder)
        points.append(EntryPoint(finder.__name__, finder.__name__, "orlop.finder"))
    monkeypatch.setattr(discovery, "_scanned", (0.0, {}))
    monkeypatch.setattr(discovery.entrypoints, "every", lambda: points)
    monkeypatch.setattr(EntryPoint, "distribution", lambda self: (f"dist-{self.name}", "1.5"))


def test_finders_are_asked_in_order_for_a_driver_that_no_distribution_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _Finder("f1", "one"), _Finder("f2", "two")
    _finders(monkeypatch, second, first)
    found = discovery.find("volume", "two")
    assert (found.make(), found.origin, found.version) == ("two of f2", "dist-f2:two", "1.5")
    assert first.asked == second.asked == [("volume", "two")]
    assert discovery.find("volume", "one").make() == "one of f1" and len(second.asked) == 1
    assert discovery.find("volume", "dist-f2:two").origin == "dist-f2:two" and ("volume", "two") not in first.asked[2:]
    with pytest.raises(
        NotFound, match=r'"no": installed volume drivers are: registered; there is none of /f1/no.sock, /f2/no.sock'
    ):
        discovery.find("volume", "no")
    with pytest.raises(NotFound):
        discovery.find("volume", "dist-f3:two")


def test_finders_are_asked_for_drivers_only_and_not_for_registered_names(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = _Finder("f1", "registered")
    _finders(monkeypatch, finder)
    with pytest.raises(DriverError, match='cannot load volume driver "registered"'):
        discovery.find("volume", "registered")
    with pytest.raises(NotFound):
        discovery.find("service", "registered")
    assert finder.asked == []
    assert discovery.origin("volume", "other") == "dist-f1:other"
    assert discovery.origin("volume", "registered") == "dist-registered:registered"
    assert discovery.is_finder("volume", "dist-f1") and not discovery.is_finder("volume", "dist-registered")
    assert discovery.origin("volume", "dist-x:other") == discovery.origin("service", "other") == ""


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), DriverError("its file is broken")])
def test_error_of_a_finder_is_a_driver_error(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    _finders(monkeypatch, _Finder("f1", "one", error))
    with pytest.raises(DriverError, match=str(error)):
        discovery.find("volume", "one")
