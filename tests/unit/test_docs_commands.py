"""docs/commands.md lists the commands and flags of docker that orlop has. The page is compared with the docker client of
this machine, if the client has the version for which the page was written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "docs"))
import commands

VERSION = "26.1."


@pytest.mark.timeout(300)  # runs `docker COMMAND --help` for each command
def test_commands_page_matches_the_clients_docker_and_orlop() -> None:
    if not shutil.which("docker"):
        pytest.skip("the docker client is not installed")
    version = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    if VERSION not in version:
        pytest.skip(f"the page is about docker {VERSION}x, installed is {version.strip()}")
    theirs = commands.docker_tree()
    assert len(theirs) > 150 and "--volume" in theirs["run"] and "dial-stdio" in "".join(theirs)
    assert commands.PAGE.read_text() == commands.generated(theirs, commands.orlop_tree()), "run ./dev docs"


def test_commands_page_marks_commands_and_flags_that_orlop_lacks() -> None:
    page = commands.generated({"": set(), "ps": {"--all", "-a"}, "trust sign": set()}, {"": set(), "ps": {"--all", "--new"}})
    assert "| `docker ps` | yes, without `-a` | `--new` |" in page
    assert "| `docker trust sign` | no; the error names an alternative |" in page
    assert "Of docker's 2 commands, orlop has 1. Of the flags of these commands, orlop lacks 1." in page
