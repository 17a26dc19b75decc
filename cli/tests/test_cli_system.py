"""`orlop system` on recorded answers: sums and tables of `df`, warnings and prompts of `prune`, `info` of the client."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from orlop_cli import __version__, _table
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")

IMAGE = "sha256:" + "a1" * 32
CONTAINER = "b2" * 32
VOLUME = "c3" * 32
USAGE = {
    "LayersSize": 10_000_000,
    "Images": [
        {
            "Id": IMAGE,
            "RepoTags": ["r.example:5000/app:1"],
            "Created": 1,
            "Size": 8_000_000,
            "SharedSize": 5_500_000,
            "Containers": 2,
        },
        {
            "Id": IMAGE,
            "RepoTags": [],
            "RepoDigests": [],
            "Created": 1,
            "Size": 5_500_000,
            "SharedSize": 5_500_000,
            "Containers": 0,
        },
    ],
    "Containers": [
        {
            "Id": CONTAINER,
            "Names": ["/web"],
            "Image": "app",
            "Command": "serve --with many words",
            "Created": 1,
            "State": "running",
            "Status": "Up",
            "Mounts": [{"Driver": "local"}, {"Type": "bind"}],
            "SizeRw": 300_000,
            "SizeRootFs": 8_300_000,
        },
        {
            "Id": CONTAINER,
            "Names": ["/old"],
            "Image": "app",
            "Command": "x",
            "Created": 1,
            "State": "exited",
            "SizeRw": 100_000,
        },
    ],
    "Volumes": [
        {"Name": "v", "Driver": "local", "UsageData": {"RefCount": 1, "Size": 3_000}},
        {"Name": VOLUME, "Driver": "local", "UsageData": {"RefCount": 0, "Size": 1_000}},
        {"Name": "far", "Driver": "nfs", "UsageData": {"RefCount": 0, "Size": -1}},
    ],
    "BuildCache": [
        {
            "ID": "d4" * 12,
            "Type": "regular",
            "Size": 2_000_000,
            "InUse": True,
            "UsageCount": 3,
            "CreatedAt": "2020-01-01T00:00:00Z",
        },
        {"ID": "e5" * 12, "Type": "source.local", "Size": 500_000, "Shared": True, "UsageCount": 1},
        {"ID": "f6" * 12, "Type": "regular", "Size": 1_000_000},
    ],
}


@pytest.fixture
def df(daemon: RecordedDaemon, orlop: Any) -> Any:
    daemon.on("GET", "/system/df", answer(USAGE))

    def call(*args: str) -> str:
        done = orlop("system", "df", *args)
        assert (done.code, done.err) == (0, "")
        return str(done.out)

    return call


def test_df_command_prints_the_same_sums_as_docker(df: Any) -> None:
    assert df() == (
        "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n"
        "Images          2         1         10MB      7.5MB (75%)\n"
        "Containers      2         1         400kB     100kB (25%)\n"
        "Local Volumes   3         1         4kB       1kB (25%)\n"
        "Build Cache     3         1         3MB       1MB\n"
    )


def test_df_command_prints_zero_bytes_if_the_daemon_has_no_objects(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on(
        "GET", "/system/df", answer({"LayersSize": 0, "Images": [], "Containers": None, "Volumes": [], "BuildCache": None})
    )
    lines = orlop("system", "df").out.splitlines()[1:]
    assert [line.split()[-1] for line in lines] == ["0B"] * 4


def test_df_verbose_prints_a_table_per_type(df: Any) -> None:
    text = df("-v")
    images, containers, volumes, cache = (block.splitlines() for block in _titled(text))
    assert (
        images[0]
        == "REPOSITORY           TAG       IMAGE ID       CREATED        SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS"
    )
    assert images[1].split()[:3] == ["r.example:5000/app", "1", "a1a1a1a1a1a1"]
    assert images[1].split()[-4:] == ["8MB", "5.5MB", "2.5MB", "2"]
    assert images[2].split()[:2] == ["<none>", "<none>"]
    assert containers[0].split()[:2] == ["CONTAINER", "ID"]
    assert '"serve --with many w…"' in containers[1]
    assert "virtual" not in containers[1]
    assert volumes[1:] == [f"v{' ' * 66}1         3kB", f"{VOLUME}   0         1kB", f"far{' ' * 64}0         N/A"]
    assert "Build cache usage: 3MB\n" in text
    assert cache[1].startswith("d4d4d4d4d4d4*   regular")
    assert cache[2].split()[-1] == "true"


def _titled(text: str) -> list[str]:
    """The tables, without the title and blank line above each."""
    return re.split(r"(?:^|\n)(?:\w+ )+(?:space )?usage: ?\w*\n\n", text)[1:]


def test_df_supports_json_templates_and_tables(df: Any) -> None:
    first = json.loads(df("--format", "json").splitlines()[0])
    assert first == {"Type": "Images", "TotalCount": "2", "Active": "1", "Size": "10MB", "Reclaimable": "7.5MB (75%)"}
    assert df("--format", "{{.Type}}={{.Active}}").splitlines()[1] == "Containers=1"
    assert df("--format", "table {{.Type}}\t{{.Size}}").splitlines()[0] == "TYPE            SIZE"
    everything = json.loads(df("-v", "--format", "json"))
    assert set(everything) == {"Images", "Containers", "Volumes", "BuildCache"}
    assert everything["Containers"][0]["ID"] == CONTAINER
    assert df("-v", "--format", "{{range .Volumes}}{{.Name}}:{{.Links}} {{end}}") == f"v:1 {VOLUME}:0 far:0 \n"


def prunes(daemon: RecordedDaemon) -> None:
    daemon.on("POST", "/containers/prune", answer({"ContainersDeleted": [CONTAINER], "SpaceReclaimed": 1_000}))
    daemon.on("POST", "/networks/prune", answer({"NetworksDeleted": ["n"]}))
    daemon.on("POST", "/volumes/prune", answer({"VolumesDeleted": [VOLUME], "SpaceReclaimed": 20_000}))
    daemon.on("POST", "/images/prune", answer({"ImagesDeleted": [{"Deleted": IMAGE}], "SpaceReclaimed": 300_000}))
    daemon.on("POST", "/build/prune", answer({"CachesDeleted": ["d4"], "SpaceReclaimed": 4_000_000}))


def test_system_prune_prints_the_sum_of_reclaimed_space(daemon: RecordedDaemon, orlop: Any) -> None:
    prunes(daemon)
    done = orlop("system", "prune", "-f", "--volumes")
    assert done.out == (
        f"Deleted Containers:\n{CONTAINER}\n\nDeleted Networks:\nn\n\nDeleted Volumes:\n{VOLUME}\n\n"
        f"Deleted Images:\ndeleted: {IMAGE}\n\nDeleted build cache objects:\nd4\n\nTotal reclaimed space: 4.321MB\n"
    )
    kinds = [line.split("/")[-2] for line in daemon.seen()]
    assert kinds == ["containers", "networks", "volumes", "images", "build"]


def test_system_prune_keeps_volumes_without_the_flag_volumes(daemon: RecordedDaemon, orlop: Any) -> None:
    prunes(daemon)
    assert orlop("system", "prune", "-f").code == 0
    assert not [line for line in daemon.seen() if "volumes" in line]


@pytest.mark.parametrize(
    ("args", "warning"),
    [
        (
            (),
            "  - all stopped containers\n  - all networks not used by at least one container\n  - all dangling images\n"
            "  - unused build cache\n\n",
        ),
        (
            ("-a", "--volumes", "--filter", "label=x"),
            "  - all stopped containers\n  - all networks not used by at least one container\n"
            "  - all anonymous volumes not used by at least one container\n"
            "  - all images without at least one container associated to them\n  - all build cache\n\n"
            "  Items to be pruned will be filtered with:\n  - label=x\n\n",
        ),
    ],
)
def test_system_prune_prints_a_warning_and_does_nothing_if_the_user_declines(
    daemon: RecordedDaemon, orlop: Any, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], warning: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    done = orlop("system", "prune", *args)
    assert done.out == f"WARNING! This will remove:\n{warning}Are you sure you want to continue? [y/N] "
    assert (done.code, done.err) == (0, "")
    assert not [line for line in daemon.seen() if line.startswith("POST")]


def test_until_filter_is_refused_with_volumes(daemon: RecordedDaemon, orlop: Any) -> None:
    done = orlop("system", "prune", "-f", "--volumes", "--filter", "until=3h")
    assert (done.code, 'The "until" filter is not supported with "--volumes"' in done.err) == (1, True)
    assert not daemon.seen()


def test_system_commands_are_available_at_the_top_level() -> None:
    assert set(_table.SYSTEM) == {"check", "df", "dial-stdio", "events", "info", "prune"}
    assert _table.TABLE["info"].load() is _table.SYSTEM["info"].load()
    assert _table.TABLE["events"] == _table.SYSTEM["events"]


def test_info_command_shows_the_version_context_and_host_of_the_client(
    daemon: RecordedDaemon, orlop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.on("GET", "/info", answer({"Containers": 2, "Images": 1, "ServerVersion": "1", "Warnings": ["WARNING: open"]}))
    done = orlop("system", "info")
    head = f"Client: Orlop\n Version:    {__version__}\n Context:    default\n Host:       {daemon.host}\n"
    assert done.out.startswith(f"{head} Debug Mode: false\n\nServer:\n Containers: 2\n")
    assert done.err == "WARNING: open\n"
    found = json.loads(orlop("info", "--format", "{{json .ClientInfo}}").out)
    assert (found["Version"], found["Context"], found["Debug"]) == (__version__, "default", False)
