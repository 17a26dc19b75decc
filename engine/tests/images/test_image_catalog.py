"""Image look-up, removal plans and lists: Docker's rules on constructed catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import trio

from orlop_engine.images import listing, removal
from orlop_engine.images.catalog import Catalog
from orlop_engine.images.records import ImageRecord, ImageUser
from orlop_engine.images.references import parse
from orlop_engine.types.images import ImageConfig, ImageDocument
from orlop_sdk import Conflict, InvalidParameter, NotFound

ONE, TWO, THREE = ("sha256:" + digit * 64 for digit in "123")
DIGEST = "sha256:" + "d" * 64


def catalog(names: Mapping[str, Sequence[str]], parents: Mapping[str, str] | None = None) -> Catalog:
    result = Catalog()
    for number, (id, references) in enumerate(names.items()):
        created = f"2024-01-0{number + 1}T00:00:00Z"
        document = ImageDocument(os="linux", created=created, config=ImageConfig(labels={"n": str(number)}))
        result.put(ImageRecord(id, (), parent=(parents or {}).get(id, "")), document, b"")
        for reference in references:
            result.point(parse(reference), id)
    return result


def test_image_names_are_looked_up_in_dockers_order() -> None:
    found = catalog({ONE: ["a:latest", f"a@{DIGEST}"], TWO: ["1111:latest"], THREE: []})
    for text in ("a", "a:latest", f"a@{DIGEST}", f"a:other@{DIGEST}", ONE, ONE[7:], "sha256:11", "docker.io/library/a"):
        assert found.resolve(text).id == ONE, text
    assert found.resolve("1111").id == TWO, "a name goes before the prefix of an ID"
    assert found.resolve("3").id == THREE
    assert found.images[ONE].repo_tags == ["a:latest"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "No such image: nope:latest"),
        ("nope:x", "No such image: nope:x"),
        ("sha256:0000", "No such image: sha256:0000"),
        ("0" * 64, "No such image: sha256:" + "0" * 64),
        (f"nope@{DIGEST}", f"No such image: nope@{DIGEST}"),
    ],
)
def test_unknown_image_names_are_not_found(text: str, message: str) -> None:
    with pytest.raises(NotFound) as caught:
        catalog({ONE: []}).resolve(text)
    assert str(caught.value) == message


def test_ambiguous_prefixes_and_invalid_names_are_refused() -> None:
    found = catalog({"sha256:" + "1" * 63 + "a": [], ONE: []})
    with pytest.raises(NotFound):
        found.resolve("111")
    with pytest.raises(InvalidParameter, match="must be lowercase"):
        found.resolve("Nope")
    with pytest.raises(InvalidParameter):
        found.resolve("")


def test_name_that_is_moved_to_another_image_is_removed_from_the_old_image() -> None:
    found = catalog({ONE: ["a:latest"], TWO: ["b:latest"]})
    found.point(parse("a:latest"), TWO)
    assert (found.images[ONE].repo_tags, found.images[TWO].repo_tags) == ([], ["a:latest", "b:latest"])


def remove(
    names: Mapping[str, Sequence[str]],
    text: str,
    *,
    users: Mapping[str, list[ImageUser]] | None = None,
    parents: Mapping[str, str] | None = None,
    force: bool = False,
    prune: bool = True,
) -> list[tuple[str, list[str], bool]]:
    plan = removal.plan(catalog(names, parents), users or {}, text, force=force, prune=prune)
    return [(id, [name.familiar for name in gone], delete) for id, gone, delete, _ in plan.steps]


RUNNING, STOPPED = ImageUser("c" * 64, True), ImageUser("e" * 64, False)


def test_removal_of_the_last_name_of_an_image_removes_the_image() -> None:
    assert remove({ONE: ["a:x", "b:y"]}, "a:x") == [(ONE, ["a:x"], False)]
    assert remove({ONE: ["a:x", f"a@{DIGEST}"]}, "a:x") == [(ONE, ["a:x", f"a@{DIGEST}"], True)]
    assert remove({ONE: ["a:x", "a:y", f"a@{DIGEST}"]}, "a:x") == [(ONE, ["a:x"], False)]
    assert remove({ONE: ["a:x", "b:y", f"a@{DIGEST}"]}, "a:x") == [(ONE, ["a:x", f"a@{DIGEST}"], False)]
    assert remove({ONE: ["a:x", f"a@{DIGEST}"]}, f"a@{DIGEST}") == [(ONE, [f"a@{DIGEST}"], False)]


def test_removal_by_id_removes_all_names() -> None:
    assert remove({ONE: ["a:x", f"a@{DIGEST}"]}, "1111") == [(ONE, ["a:x", f"a@{DIGEST}"], True)]
    assert remove({ONE: []}, ONE) == [(ONE, [], True)]
    assert remove({ONE: ["a:x", "b:y"]}, ONE, force=True) == [(ONE, ["a:x", "b:y"], True)]


@pytest.mark.parametrize(("text", "silent"), [("a:x", {f"a@{DIGEST}"}), (f"a@{DIGEST}", set()), (ONE, set())])
def test_removal_of_the_last_tag_publishes_no_events_for_digests(text: str, silent: set[str]) -> None:
    plan = removal.plan(catalog({ONE: ["a:x", f"a@{DIGEST}"]}), {}, text, force=True, prune=True)
    assert [{name.familiar for name in step.silent} for step in plan.steps] == [silent]


@pytest.mark.parametrize(
    ("names", "text", "users", "force", "message"),
    [
        (["a:x", "b:y"], ONE, [], False, "(must be forced) - image is referenced in multiple repositories"),
        (["a:x"], ONE, [STOPPED], False, "(must be forced) - image is being used by stopped container eeeeeeeeeeee"),
        (["a:x"], ONE, [RUNNING], True, "(cannot be forced) - image is being used by running container cccccccccccc"),
    ],
)
def test_removal_of_an_image_with_users_or_several_names_is_refused(
    names: list[str], text: str, users: list[ImageUser], force: bool, message: str
) -> None:
    with pytest.raises(Conflict) as caught:
        remove({ONE: names}, text, users={ONE: users}, force=force)
    assert str(caught.value) == f"conflict: unable to delete 111111111111 {message}"


def test_removal_of_the_last_name_of_an_image_in_use_is_refused() -> None:
    for user in (RUNNING, STOPPED):
        with pytest.raises(Conflict) as caught:
            remove({ONE: ["a:x"]}, "a:x", users={ONE: [user]})
        assert str(caught.value) == (
            'conflict: unable to remove repository reference "a:x" (must force) - container '
            f"{user.container_id[:12]} is using its referenced image 111111111111"
        )
    assert remove({ONE: ["a:x"]}, "a:x", users={ONE: [RUNNING]}, force=True) == [(ONE, ["a:x"], False)]
    assert remove({ONE: ["a:x"]}, "a:x", users={ONE: [STOPPED]}, force=True) == [(ONE, ["a:x"], True)]
    assert remove({ONE: ["a:x", "b:x"]}, "a:x", users={ONE: [RUNNING]}) == [(ONE, ["a:x"], False)]


def test_removal_of_an_image_also_removes_untagged_parents_without_other_children() -> None:
    names, parents = {ONE: [], TWO: [], THREE: ["a:x"]}, {TWO: ONE, THREE: TWO}
    assert remove(names, "a:x", parents=parents) == [(THREE, ["a:x"], True), (TWO, [], True), (ONE, [], True)]
    assert remove(names, "a:x", parents=parents, prune=False) == [(THREE, ["a:x"], True)]
    with pytest.raises(Conflict, match=r"\(cannot be forced\) - image has dependent child images"):
        remove(names, TWO, parents=parents, force=True)
    tagged = {ONE: ["base:x"], TWO: [], THREE: ["a:x"]}
    assert remove(tagged, "base:x", parents=parents) == [(ONE, ["base:x"], False)]
    assert remove(tagged, "a:x", parents=parents)[-1] == (TWO, [], True)


IMAGES = catalog({ONE: ["a:x", "registry.io/n/b:y"], TWO: [], THREE: ["c:latest"]}, {THREE: TWO})


def listed(filters: listing.Filters, everything: bool = False) -> str:
    async def main() -> str:
        chosen = await listing.choose(IMAGES, filters, everything=everything, now=1704153600)
        return "".join(item.image.id[-1] for item in chosen)

    return trio.run(main)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "31"),
        ({"dangling": ["true"]}, ""),
        ({"dangling": ["false"]}, "31"),
        ({"label": ["n=0"]}, "1"),
        ({"label": ["n"], "label!": ["n=2"]}, "1"),
        ({"label": ["n=0", "n=2"]}, ""),
        ({"reference": ["a"]}, "1"),
        ({"reference": ["a:*"]}, "1"),
        ({"reference": ["*"]}, "31"),
        ({"reference": ["*/*/b"]}, "1"),
        ({"reference": ["registry.io/*/b:y"]}, "1"),
        ({"reference": ["docker.io/library/c:latest"]}, "3"),
        ({"reference": ["[a-b]:?"]}, "1"),
        ({"reference": ["[^c]:*", "nope"]}, "1"),
        ({"before": ["c"]}, "1"),
        ({"since": ["a:x"]}, "3"),
        ({"until": ["2024-01-02"]}, "1"),
        ({"until": ["1704067201"]}, "1"),
        ({"until": ["1704067200"]}, ""),
        ({"until": ["36h"]}, ""),
        ({"until": ["1h30m"]}, "1"),
        ({"until": ["1h30m", "2025-01-01"]}, "1"),
        ({"until": ["1h30m", "2020-01-01"]}, ""),
        ({"reference": ["a*"], "dangling": ["false"]}, "1"),
        ({"reference": ["a*"], "dangling": ["true"]}, ""),
    ],
)
def test_list_filters_select_images(filters: listing.Filters, expected: str) -> None:
    assert listed(filters) == expected


def test_image_list_with_all_contains_parent_images() -> None:
    assert listed({}, everything=True) == "321"
    assert listed({"dangling": ["1"]}, everything=True) == "2"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"foo": ["x"]}, "invalid filter 'foo'"),
        ({"dangling": ["x"]}, "invalid filter 'dangling=[x]'"),
        ({"dangling": ["true", "false"]}, "invalid filter 'dangling=[false true]'"),
        ({"until": ["x"]}, 'failed to parse value as time or duration: "x"'),
        ({"reference": ["[a"]}, "invalid filter 'reference=[[a]'"),
        ({"reference": ["[b-a]"]}, r"invalid filter 'reference=[[b-a]]'"),
    ],
)
def test_invalid_list_filters_are_refused(filters: listing.Filters, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        listed(filters)
    assert str(caught.value) == message


def pruned(
    names: Mapping[str, Sequence[str]],
    filters: listing.Filters,
    *,
    users: Mapping[str, list[ImageUser]] | None = None,
    parents: Mapping[str, str] | None = None,
) -> list[tuple[str, list[str], bool]]:
    """The steps of a prune, grouped by image."""

    async def main() -> removal.Removal:
        found, planned = catalog(names, parents), removal.Removal()
        for _ in removal.prune(found, users or {}, await listing.prunable(found, filters, 1e12), planned):
            pass
        return planned

    result: list[tuple[str, list[str], bool]] = []
    for id, gone, delete, _ in trio.run(main).steps:
        told = [name.familiar for name in gone]
        if result and result[-1][0] == id:
            result[-1] = (id, result[-1][1] + told, delete)
        else:
            result.append((id, told, delete))
    return result


ALL = {"dangling": ["false"]}


def test_image_prune_selects_untagged_images() -> None:
    names = {ONE: ["a:x", f"a@{DIGEST}"], TWO: [], THREE: [f"c@{DIGEST}"]}
    assert pruned(names, {}) == [(TWO, [], True), (THREE, [f"c@{DIGEST}"], True)]
    assert pruned(names, {}, users={TWO: [STOPPED], THREE: [STOPPED]}) == []
    assert pruned(names, {"label": ["n=2"]}) == [(THREE, [f"c@{DIGEST}"], True)]
    assert pruned(names, {"until": ["2024-01-03"]}) == [(TWO, [], True), (THREE, [f"c@{DIGEST}"], True)]
    assert pruned(names, {"until": ["2024-01-02"]}) == [(TWO, [], True)]


def test_image_prune_with_all_leaves_one_name_to_an_image_in_use() -> None:
    names = {ONE: ["a:x", "a:y", "b:x"], TWO: ["c:x", f"c@{DIGEST}"], THREE: ["d:x"]}
    assert pruned(names, ALL, users={ONE: [RUNNING], TWO: [STOPPED]}) == [
        (ONE, ["a:x", "a:y"], False),
        (THREE, ["d:x"], True),
    ]
    mixed = {ONE: ["a:x", f"a@{DIGEST}", "b:x"]}
    assert pruned(mixed, ALL, users={ONE: [STOPPED]}) == [(ONE, ["a:x", f"a@{DIGEST}"], False)]


def test_image_prune_removes_a_parent_image_with_its_last_child() -> None:
    parents = {TWO: ONE, THREE: TWO}
    assert pruned({ONE: [], TWO: [], THREE: ["a:x"]}, {}, parents=parents) == []
    everything = [(THREE, ["a:x"], True), (TWO, [], True), (ONE, [], True)]
    assert pruned({ONE: [], TWO: [], THREE: ["a:x"]}, ALL, parents=parents) == everything
    named = {ONE: ["base:x"], TWO: [], THREE: ["a:x"]}
    assert pruned(named, ALL, parents=parents) == [(ONE, ["base:x"], False), *everything]
    assert pruned(named, ALL, parents=parents, users={THREE: [RUNNING]}) == [(ONE, ["base:x"], False)]


def test_invalid_prune_filters_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="invalid filter 'reference'"):
        pruned({}, {"reference": ["a"]})
    with pytest.raises(InvalidParameter, match="more than one until filter specified"):
        pruned({}, {"until": ["1", "2"]})


def test_image_list_shows_only_names_that_match_the_filters() -> None:
    found = catalog({ONE: ["a:x", "a:y", f"a@{DIGEST}", "b:x"], TWO: [f"c@{DIGEST}"]})

    def names(filters: listing.Filters) -> list[tuple[list[str], list[str]]]:
        return [(item.tags, item.digests) for item in trio.run(partial(listing.choose, found, filters, everything=False))]

    assert names({"reference": ["a"]}) == [(["a:x", "a:y"], [f"a@{DIGEST}"])]
    assert names({"reference": ["a:y", "b"]}) == [(["a:y", "b:x"], [])]
    assert names({"dangling": ["true"]}) == [([], [f"c@{DIGEST}"])], "a digest alone is no name for people"
    assert names({"dangling": ["true"], "reference": ["a@*"]}) == [([], [f"a@{DIGEST}"])]


def test_images_created_in_the_same_second_are_sorted_by_the_fraction_of_the_second() -> None:
    found = Catalog()
    for id, fraction in ((ONE, ".000000001"), (TWO, ".5"), (THREE, ".500000001")):
        document = ImageDocument(os="linux", created=f"2024-01-01T00:00:00{fraction}Z")
        found.put(ImageRecord(id, ()), document, b"")

    def ids(filters: listing.Filters) -> list[str]:
        return [item.image.id for item in trio.run(partial(listing.choose, found, filters, everything=False))]

    assert ids({}) == [THREE, TWO, ONE]
    assert ids({"since": [TWO]}) == [THREE]
    assert ids({"before": [TWO]}) == [ONE]
    assert ids({"since": [ONE], "before": [THREE]}) == [TWO]
