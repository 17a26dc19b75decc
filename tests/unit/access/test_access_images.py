"""Image names on restricted listeners: each name has an owner, and no client can take names of another owner."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from tests.registry import docker_archive, image, layer
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.hostile import serving

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_engine.images.imports import ImportRequest
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard, _BufferedBody
from orlop_guard_listeners.image_names import ListenerImages
from orlop_guard_listeners.label_scope import LabelScope
from orlop_guard_listeners.listener_policy import Denied, ListenerPolicy
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Answer, Peer, Request
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import OrlopError

BASE, LABELLED = image([layer({"a": b"1"})]), image([layer({"b": b"2"})], config={"Labels": {"team": "web"}})
OTHER, THIRD = image([layer({"c": b"3"})]), image([layer({"d": b"4"})])


def policy(host: str, *names: str, labels: tuple[str, ...] = (), pulling: bool = False) -> ListenerImages:
    policy = ListenerPolicy.of(Listener(host=f"unix:///{host}", role="no-exec", labels=labels, image_names=names))
    matches = LabelScope(None, policy).matches if labels else None  # type: ignore[arg-type]  # it asks no engine for that
    return ListenerImages(policy, matches, policy.denied, pulling=pulling)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    stream = io.BytesIO(data)
    while piece := stream.read(4096):
        yield piece
        await trio.lowlevel.checkpoint()


class Client:
    """A client of one listener; every method returns the error's text, "" for none."""

    def __init__(self, fixture: ImagesFixture, images: ImagePolicy) -> None:
        self.fixture, self.images = fixture, images

    async def load(self, **names: object) -> str:
        archive = docker_archive({name.replace("__", ":"): made for name, made in names.items()})  # type: ignore[misc]
        try:
            records = await drain(self.fixture.images.load_archive(pieces(archive), policy=self.images))
        except OrlopError as error:
            return str(error)
        return str(records[-1].get("error", ""))

    async def make(self, name: str) -> str:
        request = ImportRequest("-", parse(name).with_default_tag(), policy=self.images)
        try:
            records = await drain(await self.fixture.images.import_image(request, pieces(layer({"e": b"5"}).data)))
        except OrlopError as error:
            return str(error)
        return str(records[-1].get("error", ""))

    async def _said(self, done: Awaitable[object]) -> str:
        try:
            await done
        except OrlopError as error:
            return str(error)
        return ""

    async def tag(self, image: str, name: str) -> str:
        repository, _, tag = name.rpartition(":")
        return await self._said(self.fixture.images.tag(image, repository, tag, self.images))

    async def remove(self, name: str, *, force: bool = False) -> str:
        return await self._said(self.fixture.images.remove(name, force=force, policy=self.images))

    async def prune(self, *, everything: bool = False) -> str:
        filters = {"dangling": ["false"]} if everything else {}
        return await self._said(self.fixture.images.prune(filters, self.images))


def names(fixture: ImagesFixture) -> dict[str, str]:
    """All names, with the IDs of their images."""
    return {name: found.id for found in fixture.images.all() for name in found.repo_tags}


def on(tmp_path: Path, body: Callable[[ImagesFixture], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as fixture:
            await body(fixture)

    trio.run(main)


REFUSED = "is not allowed for role no-exec of listener unix:///ci"


def test_client_cannot_move_a_tag_of_another_owner(tmp_path: Path) -> None:
    """Covers load, import and tag. Commit and pull call the same two functions."""

    async def body(fixture: ImagesFixture) -> None:
        admin, ci = Client(fixture, UNRESTRICTED), Client(fixture, policy("ci"))
        assert not await admin.load(app__1=BASE)
        before = names(fixture)
        moved = f"moving the name app:1 to another image {REFUSED}"
        assert await ci.load(app__1=OTHER) == moved
        assert await ci.make("app:1") == moved
        assert not await ci.load(own__1=OTHER)
        assert await ci.tag("own:1", "app:1") == moved
        assert names(fixture) == {**before, "own:1": OTHER.id}
        assert not await ci.tag("app:1", "app:1")  # this name belongs to the client
        assert not await ci.load(app__1=BASE)
        assert await ci.load(app__1=OTHER) == moved, "what was given again is not therefore one's own"
        assert not await ci.load(own__1=THIRD), "one's own may be moved"
        assert not await admin.tag("own:1", "app:1")
        assert names(fixture)["app:1"] == THIRD.id

    on(tmp_path, body)


def test_import_does_not_move_a_tag_that_another_owner_got_during_the_import(tmp_path: Path) -> None:
    """When the request arrives, no image has the name. The owner is checked again before the name is set."""

    async def body(fixture: ImagesFixture) -> None:
        admin = Client(fixture, UNRESTRICTED)

        async def slowly() -> AsyncIterator[bytes]:
            yield layer({"e": b"5"}).data
            assert not await admin.load(app__1=BASE)

        request = ImportRequest("-", parse("app:1"), policy=policy("ci"))
        with pytest.raises(Denied, match=r"moving the name app:1 to another image"):
            await drain(await fixture.images.import_image(request, slowly()))
        assert names(fixture) == {"app:1": BASE.id}
        assert len(fixture.images.all()) == 1

    on(tmp_path, body)


def test_pull_cannot_move_a_tag_of_another_owner(tmp_path: Path) -> None:
    """A pull is refused before any download if the client may not set the name. A listener
    with any labels may pull a name that no image has."""

    async def body(fixture: ImagesFixture) -> None:
        with serving() as registry:

            async def pull(images: ImagePolicy) -> str:
                records = await drain(fixture.images.pull(PullRequest(parse(f"{registry.host}/app:1"), policy=images)))
                return str(records[-1].get("error", ""))

            ci, listed = policy("ci", "own/*", pulling=True), policy("ci", f"{registry.host}/*", pulling=True)
            registry.add("app", "1", BASE)
            assert not await pull(UNRESTRICTED)
            assert not await pull(ci), "nothing moves"
            registry.add("app", "1", OTHER)
            unpacked = fixture.unpacker.count
            assert await pull(ci) == f"moving the name {registry.host}/app:1 to another image {REFUSED}"
            assert fixture.unpacker.count == unpacked
            assert names(fixture) == {f"{registry.host}/app:1": BASE.id}
            assert not await pull(listed)
            registry.add("app", "1", THIRD)
            assert not await pull(ci), "now it is of this listener"
            assert names(fixture) == {f"{registry.host}/app:1": THIRD.id}

    on(tmp_path, body)


def test_client_cannot_remove_an_image_of_another_owner(tmp_path: Path) -> None:
    async def body(fixture: ImagesFixture) -> None:
        admin, ci, other = (
            Client(fixture, UNRESTRICTED),
            Client(fixture, policy("ci")),
            Client(fixture, policy("other")),
        )
        assert not await admin.load(app__1=BASE, app__2=LABELLED)
        for text in ("app:1", BASE.id, BASE.id[7:19]):
            assert await ci.remove(text, force=True) == f"removing the name app:1 {REFUSED}"
        assert not await ci.tag("app:1", "ci:1")
        assert not await ci.load(ci__2=OTHER, ci__3=THIRD)
        assert await other.remove("ci:2")
        assert not await ci.remove("ci:1")
        assert not await ci.remove("ci:2")
        assert not await ci.prune(everything=True)
        assert names(fixture) == {"app:1": BASE.id, "app:2": LABELLED.id}

    on(tmp_path, body)


def test_client_cannot_remove_an_untagged_image_of_another_owner(tmp_path: Path) -> None:
    async def body(fixture: ImagesFixture) -> None:
        admin, ci = Client(fixture, UNRESTRICTED), Client(fixture, policy("ci"))
        assert not await admin.load(app__1=BASE)
        assert not await admin.load(app__1=OTHER)
        assert await ci.remove(BASE.id) == f"deleting image {BASE.id[7:19]} {REFUSED}"
        assert not await ci.prune()
        assert not await ci.tag(BASE.id, "mine:1")
        assert not await ci.remove("mine:1")
        assert fixture.images.get(BASE.id), "a name that was lent to it takes it nowhere"
        assert not await ci.load(mine__2=BASE)
        assert not await ci.remove("mine:2")
        assert fixture.images.get(BASE.id), "nor is it one's own for having been brought again"
        assert not await ci.load(ci__1=THIRD)
        assert not await admin.load(ci__1=THIRD)
        assert await ci.remove("ci:1") == f"removing the name ci:1 {REFUSED}", "both need it"
        assert not await ci.load(ci__2=LABELLED)
        assert not await ci.load(ci__2=image([layer({"f": b"6"})]))
        assert not await ci.prune()
        assert fixture.images.get(LABELLED.id) is None
        assert fixture.images.get(BASE.id)

    on(tmp_path, body)


def test_clients_can_change_only_image_names_that_their_listener_allows(tmp_path: Path) -> None:
    async def body(fixture: ImagesFixture) -> None:
        admin, ci = Client(fixture, UNRESTRICTED), Client(fixture, policy("ci", "ci/*", "r.test:5000/x/*"))
        assert not await admin.load(**{"ci/app__1": BASE, "app__1": LABELLED})
        for name in ("ci/app:1", "docker.io/ci/app:1", "r.test:5000/x/y:z"):
            assert not await ci.tag("app:1", name)
        for name in ("free:1", "ci/a/b:1", "ci:1", "r.test:5000/y:1", "x.test/ci/app:1"):
            assert await ci.tag("app:1", name) == f"the name {name} {REFUSED}"
        assert not await ci.remove("ci/app:1")
        assert await ci.remove("app:1") == f"removing the name app:1 {REFUSED}"
        assert await ci.make("free") == f"the name free:latest {REFUSED}"
        assert not await ci.make("ci/app")
        pulling = policy("ci", "ci/*", pulling=True)
        assert pulling.may_take(parse("free:1"), None, "")

    on(tmp_path, body)


@pytest.mark.parametrize(
    ("path", "query", "pulling"),
    [
        ("/images/create", {"fromImage": ["free"]}, True),
        ("/images/create", {"fromSrc": ["-"], "repo": ["free"]}, False),
        ("/images/app/push", {}, True),
        ("/images/app/tag", {"repo": ["free"]}, False),
    ],
)
def test_only_a_pull_can_set_an_image_name_that_the_listener_does_not_list(
    path: str, query: dict[str, list[str]], pulling: bool
) -> None:
    taken = []

    async def handler(call: Call) -> Answer:
        taken.append(call.restrictions.images.may_take(parse("free:1"), None, ""))
        return json_response({})

    listener = Listener(host="unix:///ci", role="no-exec", image_names=("ci/*",))
    guard = Guard(cast("Any", SimpleNamespace()), ListenerPolicy.of(listener), None, Chain())
    pattern = path.replace("/app/", "/{name}/")
    request = Request("POST", path, path, query, {}, cast("Any", _BufferedBody(b"")), Peer("unix"))
    trio.run(docker_router([Route("POST", pattern, handler)], guard=guard), request)
    assert taken == [pulling]


def test_image_with_the_labels_of_a_listener_belongs_to_that_listener(tmp_path: Path) -> None:
    async def body(fixture: ImagesFixture) -> None:
        web = Client(fixture, policy("web", labels=("team=web",)))
        assert not await Client(fixture, UNRESTRICTED).load(app__1=LABELLED, app__2=BASE)
        assert await web.remove("app:2")
        labelled, other = fixture.images.resolve("app:1"), fixture.images.resolve("app:2")
        assert not await web.remove("app:1")
        assert names(fixture) == {"app:2": BASE.id}
        assert (web.images.may_use(labelled), web.images.may_use(other)) == (True, False)
        assert policy("ci").may_use(other)

    on(tmp_path, body)


def test_owners_of_image_names_are_kept_by_a_restart(tmp_path: Path) -> None:
    async def before(fixture: ImagesFixture) -> None:
        assert not await Client(fixture, UNRESTRICTED).load(app__1=BASE)
        assert not await Client(fixture, policy("ci")).load(ci__1=OTHER)

    async def after(fixture: ImagesFixture) -> None:
        other, ci = Client(fixture, policy("other")), Client(fixture, policy("ci"))
        for name in ("app:1", "ci:1"):
            assert await other.remove(name)
        assert await ci.remove("app:1")
        assert not await ci.load(ci__1=THIRD)
        assert not await ci.prune()
        assert fixture.images.get(OTHER.id) is None

    on(tmp_path, before)
    on(tmp_path, after)


def test_unrestricted_policy_denies_nothing() -> None:
    with pytest.raises(AssertionError):
        UNRESTRICTED.denied("anything")
