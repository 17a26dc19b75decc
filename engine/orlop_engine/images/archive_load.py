"""`POST /images/load`: load images from an archive in Docker's format (`manifest.json`) or from an OCI image layout
(image-layout.md). An index in the layout (Docker's "manifest list") lists the manifests of images, one for each platform.

For crash safety, a load stores the blobs, then the layers, then the rows of the image and its names. The archive is not
trusted, so layers must have the diffIDs that the configuration lists, and blobs of a layout must match their digests. A
layer is not checked if the client may use an image on this host that has the same layer.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import trio

from orlop_engine.processes.zygote import Zygote
from orlop_engine.types.images import ImageDocument
from orlop_engine.unpacking import decompress as sandboxed_decompress
from orlop_sdk import DriverError, InvalidParameter, NotFound

from . import documents, manifests, platforms
from .archive_file import Archive, Member
from .archive_index import attachments, blob_path, chosen
from .archive_receive import Decompress, receive
from .content import DigestMismatch
from .documents import MAX_MANIFEST
from .image_store import CLEANUP_SECONDS, ImageStore
from .leases import Lease
from .manifests import MAX_ENTRIES, Descriptor, Index, Manifest
from .meanings import IndexSource
from .platforms import Platform
from .policy import UNRESTRICTED, ImagePolicy, check_names
from .progress import Record, Report, amount
from .records import Image, ImageRecord, Layer
from .references import Reference, parse
from .tasks import run_all

__all__ = ["Loader"]

log = logging.getLogger("orlop.images")

_NAME, _REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"


class _Entry(msgspec.Struct, rename="pascal"):
    """One image in Docker's manifest.json."""

    config: str = ""
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _Layout(msgspec.Struct):
    manifests: list[Descriptor] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """An image in the archive: the bytes of its configuration, and the member and media type of each layer."""

    raw: bytes
    layers: tuple[tuple[Member, str], ...]
    names: tuple[Reference, ...]
    manifests: tuple[bytes, ...] = ()
    index: IndexSource | None = None
    attachments: tuple[Member, ...] = ()


def _tag(text: str) -> Reference:
    reference = parse(text)
    if not reference.tag or reference.digest:
        raise InvalidParameter(f'invalid tag "{text[:200]}"')
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference


def _check_count(count: int, what: str) -> None:
    """Limit the count of images and names: the archive is not trusted, and each image and name costs a commit, a report and
    an entry in lists."""
    if count > MAX_ENTRIES:
        raise InvalidParameter(f"cannot read the archive: it contains {count} {what}, at most {MAX_ENTRIES} are allowed")


def _check_size(part: Descriptor, size: int) -> None:
    if part.size != size:
        raise InvalidParameter(f"cannot read the archive: blob {part.digest} has {size} bytes, not {part.size}")


class Loader:
    """Loads archives into the image store."""

    def __init__(
        self,
        image_store: ImageStore,
        max_depth: int,
        zygote: Zygote,
        policy: ImagePolicy = UNRESTRICTED,
        decompress: Decompress | None = None,
    ) -> None:
        self._image_store = image_store
        self._max_depth = max_depth
        self._zygote, self._decompress = zygote, decompress or sandboxed_decompress
        self._policy = policy

    async def load(
        self, body: AsyncIterable[bytes], wanted: Sequence[Platform], quiet: bool, report: Report
    ) -> list[tuple[Image, tuple[Reference, ...]]]:
        """Load all images of an archive, or only the images for the platforms in `wanted`. Reports each image as Docker
        does."""
        archive = await receive(self._image_store.content, self._zygote, body, self._decompress)
        try:
            # One lease for all images, because they may share blobs
            with self._image_store.leases.hold() as lease:
                return await self._all(archive, lease, wanted, quiet, report)
        except BaseException:
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._image_store.collect()
            raise
        finally:
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                await trio.to_thread.run_sync(archive.close)

    async def _all(
        self, archive: Archive, lease: Lease, wanted: Sequence[Platform], quiet: bool, report: Report
    ) -> list[tuple[Image, tuple[Reference, ...]]]:
        loaded = []
        reported: set[Reference] = set()
        for found in await trio.to_thread.run_sync(self._find, archive, wanted):
            image = await self._one(archive, found, lease, (lambda _: None) if quiet else report, report)
            loaded.append((image, found.names))
            for name in found.names:
                if name not in reported or found.index is None:  # the name of an index is reported only once
                    report(Record(stream=f"Loaded image: {name.familiar}\n"))
                reported.add(name)
            if not found.names:
                report(Record(stream=f"Loaded image ID: {image.id}\n"))
        return loaded

    def _find(self, archive: Archive, wanted: Sequence[Platform]) -> list[_Found]:
        """The images of an archive. All images are checked before the first image is created. Runs on a thread, because an
        archive may contain thousands of images."""
        try:
            if archive.find("manifest.json") is not None:
                return self._listed(archive, wanted)
            if archive.find("index.json") is not None:
                return self._layout(archive, wanted)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"cannot read the archive: {error}") from error
        raise InvalidParameter("invalid archive: does not contain a manifest.json")

    def _listed(self, archive: Archive, wanted: Sequence[Platform]) -> list[_Found]:
        """The images in Docker's manifest.json. This file lists only one image for each name. If the archive also contains
        an OCI layout, the images for other platforms are taken from that layout."""
        table = msgspec.json.decode(archive.read("manifest.json", MAX_MANIFEST), type=list[_Entry] | None) or []
        _check_count(len(table), "images")
        _check_count(sum(len(entry.repo_tags or ()) for entry in table), "names")
        kept, found = self._beside(archive, wanted)
        given = {name for one in found for name in one.names}
        nameless = {documents.digest(one.raw) for one in found if not one.names}
        left = []
        for entry in table:
            names = tuple(name for name in map(_tag, entry.repo_tags or ()) if name not in given)
            if names or (not entry.repo_tags and archive.need(entry.config).digest not in nameless):
                left.append((entry, names))
        return found + [self._docker(archive, entry, wanted, names, kept) for entry, names in left]

    def _layout(self, archive: Archive, wanted: Sequence[Platform]) -> list[_Found]:
        entries = self._entries(archive)
        _check_count(len(entries), "images")
        found = [image for entry in entries for image in self._oci(archive, entry, wanted)]
        _check_count(len(found), "images")
        return found

    def _entries(self, archive: Archive) -> list[Descriptor]:
        return msgspec.json.decode(archive.read("index.json", MAX_MANIFEST), type=_Layout).manifests or []

    def _beside(self, archive: Archive, wanted: Sequence[Platform]) -> tuple[dict[str, bytes], list[_Found]]:
        """Read the archive's OCI layout, which may contain more than `manifest.json`. Returns a dictionary of the manifests
        that the layout lists, and the images that the layout's indexes list. The keys of the dictionary are the digests of
        the configurations. The manifests are kept so that their images can be saved and pushed with the same manifest. An
        unusable layout is no error, because older versions of Docker ignore the layout."""
        kept: dict[str, bytes] = {}
        found: list[_Found] = []
        if archive.find("index.json") is None:
            return kept, found
        try:
            for entry in self._entries(archive)[:MAX_ENTRIES]:
                data = self._verified(archive, entry)
                manifest = manifests.parse(entry.media_type, data)
                if isinstance(manifest, Manifest):
                    kept[manifest.config.digest] = data
                else:
                    found += self._oci(archive, entry, wanted)
                    _check_count(len(found), "images")
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, InvalidParameter, DriverError) as error:
            log.info("ignoring the index.json of an archive: %s", error)
        return kept, found

    def _docker(
        self,
        archive: Archive,
        entry: _Entry,
        wanted: Sequence[Platform],
        names: tuple[Reference, ...],
        kept: dict[str, bytes],
    ) -> _Found:
        raw = archive.read(entry.config, MAX_MANIFEST)
        paths = entry.layers or []
        self._check(documents.parse(raw), len(paths), wanted, names)
        manifest = kept.get(documents.digest(raw))
        layers = tuple((archive.need(path), "") for path in paths)
        return _Found(raw, layers, names, (manifest,) if manifest else ())

    def _oci(self, archive: Archive, entry: Descriptor, wanted: Sequence[Platform]) -> Iterator[_Found]:
        """The image that a manifest describes, or the images that an index lists."""
        data = self._verified(archive, entry)
        found = manifests.parse(entry.media_type, data)
        notes = entry.annotations or {}
        text = notes.get(_NAME) or notes.get(_REF_NAME, "")
        # The annotation `_REF_NAME` may contain only a tag, such as "latest", without the name of an image
        names = (_tag(text),) if ":" in text or "/" in text else ()
        if isinstance(found, Manifest):
            yield self._image(archive, found, wanted, _Found(b"", (), names, (data,)))
            return
        source = IndexSource.of(entry.digest, found)
        for part in chosen(archive, found, wanted):
            one = self._verified(archive, part)
            manifest = manifests.parse(part.media_type, one)
            if isinstance(manifest, Index):
                raise DriverError("cannot read the archive: a manifest list is inside another manifest list")
            kept = attachments(archive, found, part.digest)
            yield self._image(archive, manifest, wanted, _Found(b"", (), names, (data, one), source, kept))

    def _image(self, archive: Archive, manifest: Manifest, wanted: Sequence[Platform], found: _Found) -> _Found:
        """A copy of `found`, with the configuration and the layers that the manifest lists."""
        raw = self._verified(archive, manifest.config)
        self._check(documents.parse(raw), len(manifest.layers), wanted, found.names)
        layers = tuple((self._layer(archive, part), part.media_type) for part in manifest.layers)
        return replace(found, raw=raw, layers=layers)

    def _layer(self, archive: Archive, part: Descriptor) -> Member:
        member = archive.need(blob_path(part.digest))
        if member.digest != part.digest:
            raise DigestMismatch(part.digest, member.digest, resumed=False)
        _check_size(part, member.size)
        return member

    def _verified(self, archive: Archive, part: Descriptor) -> bytes:
        data = archive.read(blob_path(part.digest), MAX_MANIFEST)
        if documents.digest(data) != part.digest:
            raise InvalidParameter(f"cannot read the archive: content of blob {part.digest[:100]} does not match its digest")
        _check_size(part, len(data))
        return data

    def _check(self, document: ImageDocument, layers: int, wanted: Sequence[Platform], names: tuple[Reference, ...]) -> None:
        assert document.rootfs is not None
        expected = len(document.rootfs.diff_ids)
        if expected != layers:
            raise InvalidParameter(f"invalid manifest, layers length mismatch: expected {expected}, got {layers}")
        if layers > self._max_depth:
            raise InvalidParameter(f"cannot load image: max depth exceeded: {layers} layers")
        if document.os.lower() not in ("linux", ""):
            raise InvalidParameter(
                f'cannot load {document.os} image on linux: image operating system "{document.os}" cannot be used'
            )
        actual = Platform(document.os, document.architecture, document.variant)
        if wanted and all(platforms.rank(platform, actual) is None for platform in wanted):
            what, asked = names[0].familiar if names else "image", ", ".join(map(str, wanted))
            raise NotFound(f"{what} does not match the specified platform: wanted {asked}, actual: {actual}")

    async def _one(self, archive: Archive, found: _Found, lease: Lease, progress: Report, report: Report) -> Image:
        document = await documents.read(found.raw)
        assert document.rootfs is not None
        diff_ids = document.rootfs.diff_ids
        chain_ids = documents.chain_ids(diff_ids)
        id = documents.digest(found.raw)
        check_names(self._policy, self._image_store.catalog, found.names, id)
        lease.chains.update(chain_ids)
        lease.blobs.update((id, *map(documents.digest, found.manifests)))
        await self._image_store.barrier()
        await trio.to_thread.run_sync(self._check_space, found, chain_ids)
        layers = await self._layers(archive, found, diff_ids, chain_ids, lease, progress)
        for data in (found.raw, *found.manifests):
            await self._image_store.content.put(data)
        for member in found.attachments:
            await self._image_store.hold(lease, blob=member.digest)
            await trio.to_thread.run_sync(archive.publish, member)
        self._tell_moves(found, id, report)
        kept = tuple(member.digest for member in found.attachments)
        record = ImageRecord(id, layers, tuple(map(documents.digest, found.manifests)), attachments=kept)
        return await self._image_store.add(record, document, found.raw, found.names, index=found.index, policy=self._policy)

    async def _layers(
        self,
        archive: Archive,
        found: _Found,
        diff_ids: Sequence[str],
        chain_ids: Sequence[str],
        lease: Lease,
        progress: Report,
    ) -> tuple[Layer, ...]:
        """Store and unpack the layers. If the storage driver supports it, several layers are unpacked at the same time."""
        store = self._image_store
        layers: dict[int, Layer] = {}
        waiting: list[Callable[[], Awaitable[None]]] = []

        async def build(number: int) -> None:
            (member, media_type), chain_id = found.layers[number], chain_ids[number]
            parent = chain_ids[number - 1] if number else ""
            size = await self._build(chain_id, parent, member, diff_ids[number], number, progress)
            layers[number] = Layer(member.digest, media_type, member.size, diff_ids[number], chain_id, size)

        for number, ((member, _), chain_id) in enumerate(zip(found.layers, chain_ids, strict=True)):
            have = next(store.catalog.layers(chain_id, self._policy), None)
            if have is not None and chain_id in store.layers.built and store.complete([have]):
                lease.blobs.update(have.blobs)
                layers[number] = have
                continue
            await store.hold(lease, blob=member.digest)
            await trio.to_thread.run_sync(archive.publish, member)
            if store.layers.independent:
                waiting.append(partial(build, number))
            else:
                await build(number)
        await run_all(waiting)
        return tuple(layers[number] for number in range(len(chain_ids)))

    def _check_space(self, found: _Found, chain_ids: Sequence[str]) -> None:
        """Raise if the unpacked layers cannot fit on the disk. The archive itself has been stored already. Runs on a
        thread."""
        built = self._image_store.layers.built
        layers = zip(found.layers, chain_ids, strict=True)
        unpacked = sum(member.size for (member, _), chain_id in layers if chain_id not in built)
        self._image_store.content.space.check(
            f"load {found.names[0].familiar if found.names else 'image'}", unpacked=unpacked
        )

    def _tell_moves(self, found: _Found, id: str, report: Report) -> None:
        catalog = self._image_store.catalog
        for name in found.names:
            old, target = catalog.references.get(name), catalog.targets.get(name)
            stays = target is not None and found.index is not None and target.index == found.index.digest
            if old not in (None, id) and not stays:
                text = f"The image {name.familiar} already exists, renaming the old one with ID {old} to empty string\n"
                report(Record(stream=text))

    async def _build(self, chain_id: str, parent: str, member: Member, diff_id: str, number: int, report: Report) -> int:
        def progress(share: Report, done: int) -> None:
            share(amount(diff_id.removeprefix("sha256:")[:12], "Loading layer", done, member.size))

        try:
            built = await self._image_store.layers.build(chain_id, parent, member.digest, diff_id, report, progress)
        except InvalidParameter as error:
            raise InvalidParameter(f"invalid diffID for layer {number}: expected {diff_id!r}: {error}") from error
        return built.size
