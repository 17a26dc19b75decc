"""Disk usage, prunes and `info` with the real client: values match the objects, and both clients show the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.engine import Engine, until
from tests.registry import busybox, docker_archive, image, layer

pytestmark = pytest.mark.root


def rows(engine: Engine, *flags: str) -> dict[str, dict[str, str]]:
    lines = engine.ok("system", "df", "--format", "json", *flags).splitlines()
    return {row["Type"]: row for row in map(json.loads, lines)}


def test_system_df_shows_the_same_reclaimable_sizes_as_prune(
    fresh: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = fresh({"shutdown-timeout": 3})
    base, more, lone = layer(busybox()), layer({"big": b"x" * 3_000_000}), layer({"other": b"y" * 1_000_000})
    archive = docker_archive({"one:1": image([base, more]), "two:1": image([base, more, lone]), "lone:1": image([lone])})
    engine.docker("load", "-q", stdin=archive, check=0)
    script = "head -c 500000 /dev/zero >/v/x; head -c 700000 /dev/zero >/y; echo >/anonymous/z"
    engine.ok("run", "--name", "c1", "-v", "named:/v", "-v", "/anonymous", "busybox", "sh", "-c", script)
    engine.ok("run", "-d", "--name", "c2", "one:1", "sleep", "600")
    engine.ok("volume", "create", "--label", "keep", "idle")
    engine.ok("volume", "create")
    engine.ok("network", "create", "unused")

    found = rows(engine)
    counts = {kind: (row["TotalCount"], row["Active"]) for kind, row in found.items()}
    assert counts == {"Images": ("4", "2"), "Containers": ("2", "1"), "Local Volumes": ("4", "2"), "Build Cache": ("0", "0")}
    assert found["Containers"]["Size"] == "700kB"
    assert found["Containers"]["Reclaimable"] == "700kB (100%)"
    assert found["Local Volumes"]["Size"] == "500kB"
    usage = engine.api("GET", "/v1.45/system/df")[1]
    sizes = {(item["RepoTags"] or [""])[0]: (item["Size"], item["SharedSize"]) for item in usage["Images"]}
    own = {name: size - shared for name, (size, shared) in sizes.items()}
    assert own == {"busybox:latest": 0, "one:1": 0, "two:1": 1_000_000, "lone:1": 1_000_000}
    assert usage["LayersSize"] == sizes["two:1"][0] + own["lone:1"]
    for flags in ((), ("-v",)):

        def shown(flags: tuple[str, ...] = flags) -> list[str]:
            return [run("system", "df", *flags, check=0).out for run in (engine.docker, engine.orlop)]

        with monkeypatch.context() as one_version:
            one_version.setitem(engine.env, "DOCKER_API_VERSION", "1.45")
            until(lambda: len(set(shown())) == 1, "both show the same; how long ago something was may change between them")

    old = engine.api("POST", '/v1.41/volumes/prune?filters={"label":["keep"]}')[1]
    assert old["VolumesDeleted"] == ["idle"]  # before 1.42 named volumes were included
    kept = engine.docker("system", "prune", "-f", "--filter", "label=nobody", check=0)
    assert kept.out == "Total reclaimed space: 0B\n"
    young = engine.docker("system", "prune", "-f", "--filter", "until=24h", check=0)
    assert young.out == "Total reclaimed space: 0B\n"

    done = engine.orlop("system", "prune", "-f", "-a", "--volumes", check=0).out
    assert "Deleted Networks:\nunused\n" in done
    assert {"untagged: two:1", "untagged: lone:1", "untagged: busybox:latest"} <= set(done.splitlines())
    assert engine.ok("ps", "-a", "--format", "{{.Names}}") == "c2"
    assert engine.ok("images", "--format", "{{.Repository}}") == "one"
    assert engine.ok("volume", "ls", "-q") == "named"
    reclaimed = re.search(r"Total reclaimed space: ([\d.]+)MB", done)
    assert reclaimed
    assert float(reclaimed[1]) >= 2.7  # 0.7 of a container; 1 of a layer, which counts twice: as files and as a blob
    engine.docker("volume", "prune", "-f", "-a", check=0)
    assert engine.ok("volume", "ls", "-q") == ""


def test_system_df_lists_only_the_requested_types_of_objects(engine: Engine) -> None:
    only = engine.api("GET", "/v1.45/system/df?type=container&type=build-cache")[1]
    assert (only["Images"], only["Volumes"]) == (None, None)
    assert isinstance(only["Containers"], list) and isinstance(only["BuildCache"], list)
    assert engine.api("GET", "/v1.45/system/df?type=ship")[0] == 400


def test_docker_info_shows_the_configuration_and_features_of_the_engine(fresh: Callable[..., Engine]) -> None:
    engine = fresh(
        {
            "debug": True,
            "labels": ["ship=first"],
            "proxies": {"http-proxy": "http://user:secret@proxy:1"},
            "insecure-registries": ["r.example:5000"],
            "default-address-pools": [{"base": "10.211.0.0/16", "size": 24}],
            "runtimes": {"crun": {"path": "crun"}, "gone": {"path": "/no/such"}},
        }
    )
    found: dict[str, Any] = json.loads(engine.ok("info", "--format", "{{json .}}"))
    assert found["HttpProxy"] == "http://xxxxx:xxxxx@proxy:1"
    assert found["Labels"] == ["ship=first"]
    assert found["DefaultAddressPools"] == [{"Base": "10.211.0.0/16", "Size": 24}]
    features = {
        name: json.loads(entry["status"]["org.opencontainers.runtime-spec.features"])
        for name, entry in found["Runtimes"].items()
        if "status" in entry
    }
    assert set(features) == {"runc", "crun"}
    assert "prestart" in features["runc"]["hooks"]
    assert "WARNING: runtime gone is not installed" in found["Warnings"]
    assert found["InitBinary"]
    listeners = found["NEventsListener"]
    engine.background("events")
    until(lambda: engine.api("GET", "/info")[1]["NEventsListener"] == listeners + 1, "one more listens")

    def stable(text: str) -> list[str]:
        server = text[text.index("Server:") :].splitlines()
        moving = ("File Descriptors", "Goroutines", "System Time", "Runtimes:", "containerd version")
        return [line for line in server if line.strip() and not line.strip().startswith(moving)]

    assert stable(engine.docker("info", check=0).out) == stable(engine.orlop("info", check=0).out)
