"""`ps --tree`: the text of the tree, and its flags."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_cli.tables.container_tree import render
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")


def container(name: str, *networks: str, project: str = "", **fields: Any) -> dict[str, Any]:
    labels = {"com.docker.compose.project": project} if project else {}
    settings = {"Networks": {key: {} for key in networks}}
    return {
        "Id": name.ljust(64, "0"),
        "Names": [f"/other/{name}", f"/{name}"],
        "Image": "busybox",
        "Status": "Up 2 hours",
        "Labels": {**labels, **fields.pop("labels", {})},
        "NetworkSettings": settings,
        **fields,
    }


def test_tree_shows_containers_grouped_by_project_and_network() -> None:
    found = [
        container(
            "web", "front", "back", project="shop", labels={"com.docker.compose.depends_on": "db:service_healthy:true"}
        ),
        container("db", "back", project="shop", Mounts=[{"Type": "volume", "Name": "data", "Destination": "/v"}]),
        container("alone", "bridge", Ports=[{"PrivatePort": 80, "Type": "tcp"}]),
        container("beside", HostConfig={"NetworkMode": "container:" + "db".ljust(64, "0")}),
        container("ghost", Labels=None),
    ]
    assert render(found, True).splitlines() == [
        "project shop",
        "├── network back",
        "│   ├── db       busybox   Up 2 hours",
        "│   │   └── volume data at /v",
        "│   └── web      busybox   Up 2 hours",
        "│       └── needs db (healthy)",
        "└── network front",
        "    └── web      busybox   Up 2 hours",
        "no project",
        "├── network bridge",
        "│   └── alone    busybox   Up 2 hours   80/tcp",
        "├── network of container db",
        "│   └── beside   busybox   Up 2 hours",
        "└── no network",
        "    └── ghost    busybox   Up 2 hours",
    ]


def test_tree_is_drawn_in_ascii_if_the_terminal_lacks_unicode() -> None:
    text = render([container("a", "n"), container("b", "m")], False)
    assert text == (
        "no project\n|-- network m\n|   `-- b   busybox   Up 2 hours\n`-- network n\n    `-- a   busybox   Up 2 hours\n"
    )


def test_filters_of_ps_apply_to_the_tree(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/containers/json", answer([container("a", "n")]))
    done = orlop("ps", "--tree", "-a", "-f", "name=a")
    assert done.out.splitlines()[1:] == ["└── network n", "    └── a   busybox   Up 2 hours"]
    assert "all=1" in daemon.requests[0].target
    assert "filters=" in daemon.requests[0].target


@pytest.mark.parametrize("flag", ["-q", "-s", "--no-trunc", "--format=json"])
def test_tree_cannot_be_combined_with_flags_for_the_table(orlop: Any, flag: str) -> None:
    """`ps --tree` refuses flags that only the table of `ps` has."""
    assert "conflicting options" in orlop("ps", "--tree", flag).err
