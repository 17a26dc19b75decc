"""`manifest` create, annotate, inspect, push and rm: lists of images for several platforms, under one name."""

from __future__ import annotations

import sys

from orlop_cli._command import command, fail, flag, many, option
from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence

    from orlop_cli._session import Session
    from orlop_cli.manifests.manifest import Manifest
    from orlop_cli.values.references import Reference

_PLATFORMS = {
    "darwin": "386 amd64 arm arm64",
    "dragonfly": "amd64",
    "freebsd": "386 amd64 arm",
    "linux": "386 amd64 arm arm64 mips64 mips64le ppc64le riscv64 s390x",
    "netbsd": "386 amd64 arm",
    "openbsd": "386 amd64 arm",
    "plan9": "386 amd64",
    "solaris": "amd64",
    "windows": "386 amd64 arm arm64",
}
"""The architectures that `annotate` accepts, by operating system. docker's client accepts the same ones."""


@command(
    "create",
    "Create a local manifest list for annotating and pushing to a registry",
    usage="MANIFEST_LIST MANIFEST [MANIFEST...]",
    least=2,
    most=None,
    examples=[
        "orlop manifest create reg.example/app:1 reg.example/app:1-amd64 reg.example/app:1-arm64",
        "orlop manifest create --amend reg.example/app:1 reg.example/app:1-s390x     add an image to the list",
    ],
)
@flag("-a", "--amend", help="Amend an existing manifest list")
@flag("--insecure", help="Allow communication with an insecure registry")
def create(session: Session, args: tuple[str, ...], amend: bool, insecure: bool) -> None:
    from orlop_cli.manifests import fetch, store
    from orlop_cli.manifests.manifest import full, named

    try:
        target = named(args[0])
    except CliError as error:
        raise CliError(f"error parsing name for manifest list {args[0]}: {error.message}") from None
    if _exists(target) and not amend:
        fail("refusing to amend an existing manifest list with no --amend flag")
    for name in args[1:]:
        image = named(name)
        try:
            found = store.find(target, image)
        except store.NoSuchManifest:
            found = fetch.image(image, insecure)
        store.save(target, image, found)
    print(f"Created manifest list {full(target)}")


def _exists(target: Reference) -> bool:
    from orlop_cli.manifests import store

    try:
        store.load(target)
    except store.NoSuchManifest:
        return False
    return True


@command(
    "annotate",
    "Add additional information to a local image manifest",
    usage="MANIFEST_LIST MANIFEST",
    least=2,
    most=2,
    examples=["orlop manifest annotate --arch arm64 --variant v8 reg.example/app:1 reg.example/app:1-arm64"],
)
@option("--arch", metavar="string", help="Set architecture")
@option("--os", "system", metavar="string", help="Set operating system")
@many("--os-features", metavar="strings", help="Set operating system feature")
@option("--os-version", metavar="string", help="Set operating system version")
@option("--variant", metavar="string", help="Set architecture variant")
def annotate(
    session: Session,
    args: tuple[str, ...],
    arch: str | None,
    system: str | None,
    os_features: tuple[str, ...],
    os_version: str | None,
    variant: str | None,
) -> None:
    from orlop_cli.manifests import store

    target = _annotated_name(args[0], "manifest list")
    image = _annotated_name(args[1], "manifest")
    try:
        manifest = store.find(target, image)
    except store.NoSuchManifest:
        raise CliError(f"manifest for image {args[1]} does not exist in {args[0]}") from None
    platform = dict(manifest.platform or {"architecture": "", "os": ""})
    for key, value in (("architecture", arch), ("os", system), ("os.version", os_version), ("variant", variant)):
        if value:
            platform[key] = value
    features = [*platform.get("os.features", ()), *(item for text in os_features for item in text.split(","))]
    platform["os.features"] = list(dict.fromkeys(features))
    if platform["architecture"] not in _PLATFORMS.get(platform["os"], "").split():
        fail(f"manifest entry for image has unsupported os/arch combination: {system or ''}/{arch or ''}")
    manifest.platform = _ordered(platform)
    store.save(target, image, manifest)


def _annotated_name(text: str, kind: str) -> Reference:
    from orlop_cli.manifests.manifest import named

    try:
        return named(text)
    except CliError as error:
        raise CliError(f"annotate: error parsing name for {kind} {text}: {error.message}") from None


def _ordered(platform: dict[str, object]) -> dict[str, object]:
    from orlop_cli.manifests.manifest import platform_of

    return platform_of(platform)


@command(
    "inspect",
    "Display an image manifest, or manifest list",
    usage="[MANIFEST_LIST] MANIFEST",
    least=1,
    most=2,
    examples=["orlop manifest inspect alpine:3", "orlop manifest inspect -v reg.example/app:1"],
)
@flag("--insecure", help="Allow communication with an insecure registry")
@flag("-v", "--verbose", help="Output additional info including layers and platform")
def inspect(session: Session, args: tuple[str, ...], insecure: bool, verbose: bool) -> None:
    from orlop_cli.manifests import fetch, store
    from orlop_cli.manifests.manifest import Manifest, named

    image = named(args[-1])
    if len(args) == 2:
        _show(store.find(named(args[0]), image), verbose)
        return
    found: Manifest | list[Manifest]
    try:
        found = store.load(image)
    except store.NoSuchManifest:
        found = fetch.image_or_list(image, insecure)
    if isinstance(found, Manifest):
        _show(found, verbose)
    else:
        _show_list(image, found, verbose)


def _show(manifest: Manifest, verbose: bool) -> None:
    from orlop_cli.manifests.layout import indent

    print(indent(manifest.encode() if verbose else manifest.raw.decode(), "\t"))


def _show_list(target: Reference, found: Sequence[Manifest], verbose: bool) -> None:
    from orlop_cli.manifests.layout import indent
    from orlop_cli.manifests.manifest import list_document

    if verbose:
        print(indent(f"[{','.join(one.encode() for one in found)}]", "\t"))
    else:
        try:
            print(list_document(target, found)[1])
        except CliError as error:
            raise CliError(f"failed to assemble ManifestDescriptor: {error.message}") from None


@command(
    "push",
    "Push a manifest list to a repository",
    usage="MANIFEST_LIST",
    least=1,
    most=1,
    examples=["orlop manifest push --purge reg.example/app:1"],
)
@flag("--insecure", help="Allow push to an insecure registry")
@flag("-p", "--purge", help="Remove the local manifest list after push")
def push(session: Session, args: tuple[str, ...], insecure: bool, purge: bool) -> None:
    from orlop_cli.manifests import send, store
    from orlop_cli.manifests.manifest import named

    target = named(args[0])
    for line in send.push(target, store.load(target), insecure):
        print(line, flush=True)
    if purge:
        store.remove(target)


@command(
    "rm",
    "Delete one or more manifest lists from local storage",
    usage="MANIFEST_LIST [MANIFEST_LIST...]",
    least=1,
    most=None,
    examples=["orlop manifest rm reg.example/app:1"],
)
def rm(session: Session, args: tuple[str, ...]) -> None:
    from orlop_cli.manifests import store
    from orlop_cli.manifests.manifest import named

    errors = []
    for name in args:
        try:
            target = named(name)
            store.load(target)
            store.remove(target)
        except CliError as error:
            errors.append(error.message)
    sys.stdout.flush()
    if errors:
        fail("\n".join(errors))
