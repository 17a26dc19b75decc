"""The files of a new driver project, and what `orlop driver new` refuses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from orlop_driver_tools.cli import driver
from orlop_driver_tools.new import KINDS, project
from orlop_sdk import InvalidParameter, discovery, hooks


def test_each_kind_of_driver_has_a_template() -> None:
    assert {f"orlop.{kind}" for kind in KINDS} == set(hooks.GROUPS)


@pytest.mark.parametrize("kind", KINDS)
def test_new_project_contains_the_driver_name_in_every_place(kind: str) -> None:
    made = project(kind, "my-own2")
    for name, text in made.files.items():
        assert "mydriver" not in name + text.lower(), name
        assert "$" not in text or name.endswith(".py"), name
        if name.endswith(".py"):
            compile(text, name, "exec")
    written = tomllib.loads(made.files["pyproject.toml"])
    assert written["project"]["name"] == f"orlop-{kind}-my-own2"
    assert written["project"]["entry-points"] == {f"orlop.{kind}": {"my-own2": f"orlop_{kind}_my_own2"}}
    assert "class MyOwn2" in made.files[f"orlop_{kind}_my_own2.py"]
    assert "import MyOwn2" in made.files["tests/test_my_own2.py"]
    assert "MyOwn2" in made.files["tests/test_my_own2.py"]


@pytest.mark.parametrize("name", ["", "Upper", "1st", "a_b", "a--b", "-a", "a-", "../x", "a b", "x" * 41, "é", "a\n"])
def test_invalid_driver_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="as the name of a driver: use at most"):
        project("log", name)


def test_name_of_an_installed_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "installed", lambda kind: ["json-file", "a:twin", "b:twin"] if kind == "log" else [])
    with pytest.raises(InvalidParameter, match="a log driver of this name is installed"):
        project("log", "json-file")
    with pytest.raises(InvalidParameter, match="a log driver of this name is installed"):
        project("log", "twin")
    assert project("volume", "json-file").module == "orlop_volume_json_file"


def test_option_service_is_refused_for_drivers_other_than_log_drivers() -> None:
    with pytest.raises(InvalidParameter, match="--service is for log drivers, not for volume drivers"):
        project("volume", "x", service=True)


def test_command_writes_the_project_and_keeps_existing_files(tmp_path: Path) -> None:
    target = tmp_path / "mine"
    command = ["new", "volume", "mine", "--directory", str(target)]
    done = CliRunner().invoke(driver, command)
    assert done.exit_code == 0, done.output
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == ["README.md", "orlop_volume_mine.py", "pyproject.toml", "tests/test_mine.py"]
    (target / "orlop_volume_mine.py").write_text("changed")
    (target / "README.md").unlink()
    again = CliRunner().invoke(driver, command)
    assert again.exit_code == 1
    assert "exists and is not empty" in again.output
    assert (target / "orlop_volume_mine.py").read_text() == "changed"
    assert not (target / "README.md").exists()
