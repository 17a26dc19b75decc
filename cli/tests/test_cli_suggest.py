"""Suggestions after errors ("Did you mean"): names that are similar to a name that does not exist."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")
LISTED = [{"Id": "ab" * 32, "Names": ["/webserver", "/db/alias"]}]


def missing(kind: str, name: str) -> bytes:
    return answer({"message": f"No such {kind}: {name}"}, 404)


@pytest.mark.parametrize("command", ["stop", "logs", "start", "exec"])
def test_error_about_a_missing_container_suggests_a_similar_container_name(
    daemon: RecordedDaemon, orlop: Any, command: str
) -> None:
    daemon.on("GET", "/containers/json", answer(LISTED))
    verb = {"logs": "GET"}.get(command, "POST")
    daemon.on(verb, f"/containers/webservr/{command}", missing("container", "webservr"))
    done = orlop(command, "webservr", *(["true"] if command == "exec" else []))
    assert done.code == 1
    assert "No such container: webservr\nDid you mean 'webserver'?\n" in done.err


@pytest.mark.parametrize("name", ["other", "ab" * 31 + "ac"])
def test_error_suggests_neither_dissimilar_names_nor_ids(daemon: RecordedDaemon, orlop: Any, name: str) -> None:
    """The error suggests no name if no name is similar. It never suggests a similar ID."""
    daemon.on("GET", "/containers/json", answer([{"Names": ["/webserver", "/" + "ab" * 32]}]))
    daemon.on("POST", f"/containers/{name}/stop", missing("container", name))
    assert orlop("stop", name).err == f"orlop: Error response from daemon: No such container: {name}\n"


def test_original_error_is_printed_if_the_search_for_similar_names_fails(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("POST", "/containers/webservr/stop", missing("container", "webservr"))
    done = orlop("stop", "webservr")
    assert (done.code, done.err) == (1, "orlop: Error response from daemon: No such container: webservr\n")
    assert daemon.seen()[-1] == "GET /containers/json"


def test_similar_image_is_suggested_without_its_default_tag(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/images/json", answer([{"RepoTags": ["busybox:latest", "app:1"]}, {"RepoTags": None}]))
    daemon.on("GET", "/images/bussybox/history", missing("image", "bussybox:latest"))
    assert orlop("history", "bussybox").err.endswith("\nDid you mean 'busybox'?\n")


def test_run_command_suggests_a_similar_image_after_a_failed_pull(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/images/json", answer([{"RepoTags": ["busybox:latest"]}]))
    daemon.on("POST", "/containers/create", missing("image", "bussybox:latest"))
    daemon.on("POST", "/images/create", answer({"message": "pull access denied for bussybox"}, 404))
    done = orlop("run", "bussybox")
    assert (done.code, done.out) == (125, "")
    assert done.err.endswith("pull access denied for bussybox\nDid you mean 'busybox'?\n")


def test_inspect_command_suggests_similar_objects_of_all_types(daemon: RecordedDaemon, orlop: Any) -> None:
    for path, listed in (("containers/json", []), ("images/json", []), ("networks", [{"Name": "backend"}])):
        daemon.on("GET", f"/{path}", answer(listed))
    daemon.on("GET", "/volumes", answer({"Volumes": None}))
    assert orlop("inspect", "backnd").err.endswith("\nDid you mean 'backend'?\n")


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (["ps", "--al"], "\nDid you mean '--all'?\n"),
        (["run", "--detatch", "x"], "\nDid you mean '--detach'?\n"),
        (["run", "--memmory=1g", "x"], "\nDid you mean '--memory'?\n"),
        (["pss"], "\nDid you mean 'orlop ps'?\n"),
        (["network", "creat"], "\nDid you mean 'orlop network create'?\n"),
    ],
)
def test_error_about_an_unknown_flag_or_command_suggests_a_similar_one(orlop: Any, words: list[str], question: str) -> None:
    done = orlop(*words)
    assert done.code != 0
    assert question in done.err


def test_hidden_and_dissimilar_flags_are_not_suggested(orlop: Any) -> None:
    assert "Did you mean" not in orlop("ps", "--no-al").err  # the hidden twin of --all
    assert "Did you mean" not in orlop("ps", "--zebra").err
    assert "Did you mean" not in orlop("run", "--nope", "x").err  # `--net` is similar only in its dashes


def test_predefined_networks_are_not_suggested_for_removal(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/networks", answer([{"Name": "none"}, {"Name": "nopes"}]), times=1)
    daemon.on("DELETE", "/networks/nope", answer({"message": "network nope not found"}, 404))
    assert "Did you mean 'nopes'?" in orlop("network", "rm", "nope").err
    daemon.on("GET", "/networks", answer([{"Name": "none"}]))
    assert "Did you mean" not in orlop("network", "rm", "nope").err
