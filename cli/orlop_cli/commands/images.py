"""`orlop images`."""

from __future__ import annotations

import sys
import time

from orlop_cli import _config
from orlop_cli._command import command, fail, flag, many, option
from orlop_cli.daemon.client import filters_json
from orlop_cli.tables.format import print_rows
from orlop_cli.tables.row import Row
from orlop_cli.values import units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from orlop_cli._session import Session


HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
}
RAW = {
    "repository": "Repository",
    "tag": "Tag",
    "digest": "Digest",
    "image_id": "ID",
    "created_at": "CreatedAt",
    "virtual_size": "Size",
}
NONE = "<none>"


class Image(Row):
    """One tag (or digest) of one image."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, data: dict[str, Any], repository: str, tag: str, digest: str, trunc: bool) -> None:
        self._data, self._repository, self._tag, self._digest, self._trunc = data, repository, tag, digest, trunc

    def ID(self) -> str:  # noqa: N802 - the placeholders' names
        return str(self._data["Id"].removeprefix("sha256:")[:12] if self._trunc else self._data["Id"])

    def Repository(self) -> str:  # noqa: N802
        return self._repository

    def Tag(self) -> str:  # noqa: N802
        return self._tag

    def Digest(self) -> str:  # noqa: N802
        return self._digest

    def CreatedSince(self) -> str:  # noqa: N802
        created = self._data.get("Created") or 0
        return f"{units.human_duration(time.time() - created)} ago" if created > 0 else "N/A"

    def CreatedAt(self) -> str:  # noqa: N802
        from orlop_cli.values.times import local_text

        return local_text(self._data.get("Created") or 0)

    def Size(self) -> str:  # noqa: N802
        return units.human_size(self._data.get("Size") or 0)

    def VirtualSize(self) -> str:  # noqa: N802
        return units.human_size(self._data.get("VirtualSize") or self._data.get("Size") or 0, 4)

    def Containers(self) -> str:  # noqa: N802
        count = self._data.get("Containers", -1)
        return "N/A" if count < 0 else str(count)

    def SharedSize(self) -> str:  # noqa: N802
        shared = self._data.get("SharedSize", -1)
        return "N/A" if shared < 0 else units.human_size(shared, 4)

    def UniqueSize(self) -> str:  # noqa: N802
        shared = self._data.get("SharedSize", -1)
        return "N/A" if shared < 0 else units.human_size((self._data.get("Size") or 0) - shared, 4)


def rows(found: list[dict[str, Any]], trunc: bool, digests: bool) -> Iterator[Image]:
    """Yields a row for each tag. An image that has only digests is listed under its repository without a tag. An image
    without names is listed as <none>."""
    for data in found:
        tags = [tag for tag in data.get("RepoTags") or [] if tag != f"{NONE}:{NONE}"]
        by_name: dict[str, list[str]] = {}
        for item in data.get("RepoDigests") or []:
            name, _, digest = item.partition("@")
            if name != NONE:
                by_name.setdefault(name, []).append(digest)
        tagged: set[str] = set()
        for item in tags:
            name, _, tag = item.rpartition(":")
            tagged.add(name)
            for digest in (by_name.get(name) or [NONE]) if digests else [NONE]:
                yield Image(data, name, tag, digest, trunc)
        for name, several in by_name.items():
            if name not in tagged:
                for digest in several if digests else several[:1]:
                    yield Image(data, name, NONE, digest, trunc)
        if not tags and not by_name:
            yield Image(data, NONE, NONE, NONE, trunc)


@command(
    "images",
    "List images",
    usage="[REPOSITORY[:TAG]]",
    most=1,
    examples=[
        "orlop images",
        "orlop images --tree",
        "orlop images -f dangling=true -q | xargs orlop rmi",
        "orlop images --digests alpine",
    ],
)
@flag("-a", "--all", "everything", help="Show all images (default hides intermediate images)")
@flag("--digests", help="Show digests")
@many("-f", "--filter", "filters", metavar="filter", help="Filter output based on conditions provided")
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', 'raw', or a Go template")
@flag("--no-trunc", help="Don't truncate output")
@flag("-q", "--quiet", help="Only show image IDs")
@flag("--tree", help="List the platforms of each image as a tree")
def images(
    session: Session,
    args: tuple[str, ...],
    everything: bool,
    digests: bool,
    filters: tuple[str, ...],
    form: str | None,
    no_trunc: bool,
    quiet: bool,
    tree: bool,
) -> None:
    if tree:
        given = {"--digests": digests, "--format": form, "--no-trunc": no_trunc, "--quiet": quiet}
        for name in (name for name, value in given.items() if value):
            fail(f"{name} cannot be used with --tree")
    form = form or (None if quiet else _config.text("imagesFormat"))
    conditions = [*filters, *(f"reference={name}" for name in args)]
    query = {"all": int(everything) or None, "filters": filters_json(conditions)}
    if tree:
        _show_tree(session, query)
        return
    found = session.engine.get("/images/json", query)
    columns = ("Repository", "Tag", *(("Digest",) if digests else ()), "ID", "CreatedSince", "Size")
    listed = list(rows(found, not no_trunc, digests or bool(form and ".Digest" in form)))
    raw = {name: place for name, place in RAW.items() if digests or place != "Digest"}
    print_rows(listed, columns, HEADERS, form, "ID" if quiet else "", raw)


def _show_tree(session: Session, query: dict[str, Any]) -> None:
    from orlop_cli.tables import image_tree

    session.engine.need((1, 47), "tree")
    found = session.engine.get("/images/json", {**query, "manifests": 1})
    sys.stdout.write(image_tree.render(found))
