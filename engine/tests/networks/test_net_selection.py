"""The networks of a container, which a request selects by mode, name or ID."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from networks_fixture import NetworksFixture, asked, request

from orlop_engine.types.containers import EndpointSettings
from orlop_sdk import (
    NotFound,
)


def test_new_container_gets_only_the_requested_networks(networks_fixture: Callable[..., None]) -> None:
    """A new container gets exactly the networks that its create request contains."""

    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        assert h.networks.pin("", {}) == ("bridge", asked("bridge"))
        assert h.networks.pin("inner", {}) == ("inner", asked("inner"))
        mode, endpoints = h.networks.pin("bridge", {"inner": None})
        assert (mode, endpoints) == ("bridge", asked("inner"))
        sandbox = await h.start(1, mode, endpoints=endpoints)
        assert [each.network.name for each in sandbox.endpoints] == ["inner"]
        stopped = h.networks.of_container(None, endpoints=endpoints, running=False)
        assert set(stopped.endpoints) == {"inner"}
        assert h.networks.pin("container:x", asked("inner")) == ("container:x", {})
        assert (await h.start(2, endpoints={})).endpoints == ()

    networks_fixture(body)


def test_network_name_in_a_create_request_keeps_its_meaning(networks_fixture: Callable[..., None]) -> None:
    """A network that is created or removed later does not change which network a name in a create request means."""

    async def body(h: NetworksFixture) -> None:
        mine = await h.networks.create(request("mine"))
        assert h.networks.pin(mine.id[:6], asked(mine.id[:6], "mine")) == (mine.id, asked("mine"))
        assert h.networks.pin(mine.id, {}) == (mine.id, asked(mine.id))
        assert h.networks.pin("default", asked("default")) == ("bridge", asked("bridge"))
        # A network's name is a prefix of another network's id: it never means the other network, even after a removal.
        name = mine.id[:1]
        await h.networks.create(request(name))
        mode, endpoints = h.networks.pin(name, asked(name))
        assert (mode, endpoints) == (name, asked(name))
        await h.networks.remove(name)
        with pytest.raises(NotFound, match=rf"^network {name} not found$"):
            await h.plan(1, mode, endpoints=endpoints)
        assert h.networks.of_container(None, endpoints=endpoints).endpoints[name].network_id == ""
        # The requested network does not exist when the container is created.
        assert h.networks.pin("zz", {}) == ("zz", asked("zz"))

    networks_fixture(body)


def test_network_is_selected_by_its_id(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        one, two = await h.networks.create(request("one")), await h.networks.create(request("two"))
        by_id = EndpointSettings(network_id=two.id, aliases=["x"])
        _, endpoints = h.networks.pin("bridge", {"one": by_id, "bridge": EndpointSettings(network_id=one.id)})
        assert endpoints == {two.id: EndpointSettings(aliases=["x"]), "bridge": EndpointSettings()}

    networks_fixture(body)
