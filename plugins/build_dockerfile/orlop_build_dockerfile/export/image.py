"""The exporters "moby" and "image": images in the daemon's store, and at a registry.

An image that stays in the daemon consists of the snapshots, without manifests and blobs. An image that is pushed, annotated
or attested, or that has several platforms, gets manifests, and its layers get blobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from orlop_build_dockerfile.attest import predicates
from orlop_build_dockerfile.attest.parse import parse
from orlop_build_dockerfile.attest.statements import Predicate
from orlop_build_dockerfile.contracts import BuildFailed, Export, Result
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.solver.values import join_key, registry_of

from .compose import Composed, Composer, Target, artifact, reporter, targets
from .documents import root_descriptor
from .options import ImageOptions, read_options

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["attested", "export_image"]


async def attested(job: SolverJob, found: Sequence[Target], options: ImageOptions) -> Mapping[str, Sequence[Predicate]]:
    """Evaluate the results, and return the attestations about them that the client requests for this exporter."""
    for target in found:
        await job.evaluate(target.ref)
    wanted = parse(job.build.options)
    if not wanted or (wanted.only_inline and not options.inline):
        return {}
    return await predicates(job, found, wanted)


async def export_image(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    found = targets(job, result)
    options = read_options(export, result.metadata, job.build.options, frozenset(target.platform for target in found))
    digest = "sha256:" + join_key("exporter", job.id, str(export.number), export.kind)
    said = await attested(job, found, options)
    async with job.build.progress.vertex(digest, "exporting to image", ()) as shown:
        composer = Composer(job, shown, result, options)
        shown.status("exporting layers", name="exporting layers")
        inline = any(each.kind == "inline" for each in job.build.cache_exports)
        if options.is_plain and len(found) == 1 and not any(said.values()) and not inline:
            part = await composer.plain(found[0])
            shown.status("exporting layers", name="exporting layers", done=True)
            image = (await job.core.backend.create_images([part], options.names))[0]
            answer = {"containerimage.config.digest": image, "containerimage.digest": image}
            _tell(shown, [image], options.names)
        else:
            index = len(found) > 1 or any(said.values()) or ("" not in result.refs and options.push)
            async with artifact(job) as name:
                composed = await composer.compose(name, found, said, index=index)
                shown.status("exporting layers", name="exporting layers", done=True)
                answer = await _store_and_push(job, shown, name, composed, options)
    if options.names:
        answer["image.name"] = ",".join(options.names)
    return answer


def _tell(shown: Shown, images: Sequence[str], names: Sequence[str]) -> None:
    for image in images:
        shown.status(f"writing image {image}", name=f"writing image {image}", done=True)
    for name in names:
        shown.status(f"naming to {name}", name=f"naming to {name}", done=True)


async def _store_and_push(
    job: SolverJob, shown: Shown, name: str, composed: Composed, options: ImageOptions
) -> dict[str, str]:
    if options.push and not options.names:
        raise BuildFailed("tag is needed when pushing to registry", code=3)
    if options.store:
        # For clients that ask for no platform, a name refers to the last image that got the name
        host = job.core.settings.platforms[:1]
        parts = [part for _, part in sorted(composed.parts, key=lambda each: each[0] in host)]
        names = [*options.names]
        if options.canonical:
            names += _canonical(options.names, composed.root.digest)
        images = await job.core.backend.create_images(parts, names, composed.index)
        _tell(shown, images, names)
    for target in options.names if options.push else ():
        await _push(job, shown, name, composed, target, by_digest=options.by_digest)
    answer = {
        "containerimage.digest": composed.root.digest,
        "containerimage.descriptor": root_descriptor(composed.root, composed.annotations, composed.platform),
    }
    if composed.config:
        answer["containerimage.config.digest"] = composed.config
    return answer


def _canonical(names: Sequence[str], digest: str) -> list[str]:
    """The names with the digest instead of their tags, as in Docker's lists of digests."""
    found = [msgspec.structs.replace(parse_reference(name), tag="", digest=digest) for name in names]
    return list(dict.fromkeys(map(str, found)))


async def _push(job: SolverJob, shown: Shown, name: str, composed: Composed, target: str, *, by_digest: bool) -> None:
    """Push with the credentials of the client. The progress is shown in the build."""
    credentials = await job.build.session.credentials(registry_of(target))
    shown.status("pushing layers", name="pushing layers")
    reference = parse_reference(target)
    what = f"pushing manifest for {reference if by_digest else reference.tagged()}@{composed.root.digest}"
    try:
        await job.core.backend.push(name, target, composed.manifests, credentials, reporter(shown), by_digest=by_digest)
    except Exception as error:
        raise BuildFailed(f"failed to push {target}: {error}") from error
    shown.status("pushing layers", name="pushing layers", done=True)
    shown.status(what, name=what, done=True)
