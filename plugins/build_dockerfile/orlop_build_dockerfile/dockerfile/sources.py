"""Source operations: images, the client's directories, git repositories, URLs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from orlop_build_dockerfile.pb import ops_pb2 as pb

from .giturl import GitUrl
from .interface import SourceRange
from .llb import Output, Vertex, set_platform
from .platforms import Platform

__all__ = ["git", "http", "image", "local", "oci_layout"]


def _source(identifier: str, attributes: Mapping[str, str]) -> pb.Op:
    op = pb.Op()
    op.source.identifier = identifier
    for key, value in attributes.items():
        op.source.attrs[key] = value
    op.constraints.SetInParent()
    return op


def image(
    name: str,
    platform: Platform,
    mode: str,
    vertex_name: str,
    *,
    command: str = "",
    ranges: Sequence[SourceRange] = (),
) -> Output:
    """The source operation for an image. For `mode`, see `ResolveImage`."""
    attributes = {} if mode == "default" else {"image.resolvemode": mode}
    op = set_platform(_source(f"docker-image://{name}", attributes), platform)
    description = {"com.docker.dockerfile.v1.command": command} if command else {}
    return Vertex(op, name=vertex_name, description=description, ranges=ranges).output()


def oci_layout(name: str, session: str, store: str, platform: Platform, vertex_name: str) -> Output:
    attributes = {"oci.session": session, "oci.store": store}
    return Vertex(set_platform(_source(f"oci-layout://{name}", attributes), platform), name=vertex_name).output()


def local_op(
    name: str,
    session: str,
    shared_key: str,
    *,
    follow: Sequence[str] = (),
    exclude: Sequence[str] = (),
    all_files: bool = False,
) -> pb.Op:
    """The source operation for a directory of the client. `all_files`: all files are sent again, even if their metadata is
    unchanged."""
    attributes = {}
    if session:
        attributes["local.session"] = session
    if follow:
        attributes["local.followpaths"] = _json(follow)
    if exclude:
        attributes["local.excludepatterns"] = _json(exclude)
    if shared_key:
        attributes["local.sharedkeyhint"] = shared_key
    if all_files:
        attributes["local.differ"] = "none"
    return _source(f"local://{name}", attributes)


def local(
    name: str,
    session: str,
    shared_key: str,
    vertex_name: str,
    *,
    follow: Sequence[str] = (),
    exclude: Sequence[str] = (),
    all_files: bool = False,
) -> Output:
    op = local_op(name, session, shared_key, follow=follow, exclude=exclude, all_files=all_files)
    return Vertex(op, name=vertex_name).output()


def _json(values: Sequence[str]) -> str:
    return json.dumps(list(values), ensure_ascii=False, separators=(",", ":"))


def http(url: str, filename: str, vertex_name: str, *, checksum: str = "") -> Output:
    attributes = {"http.filename": filename}
    if checksum:
        attributes["http.checksum"] = checksum
    return Vertex(_source(url, attributes), name=vertex_name).output()


def git(url: GitUrl, vertex_name: str, *, keep_git_dir: bool = False, checksum: str = "", submodules: bool = True) -> Output:
    attributes = {"git.fullurl": url.remote}
    if keep_git_dir:
        attributes["git.keepgitdir"] = "true"
    attributes["git.authtokensecret"] = "GIT_AUTH_TOKEN"
    attributes["git.authheadersecret"] = "GIT_AUTH_HEADER"
    if url.scheme == "ssh":
        attributes["git.mountsshsock"] = "default"
    if checksum:
        attributes["git.checksum"] = checksum
    if not submodules:
        attributes["git.skipsubmodules"] = "true"
    fragment = f"#{url.ref}" if url.ref or url.subdir else ""
    if url.subdir:
        fragment += f":{url.subdir}"
    return Vertex(_source(f"git://{url.identity}{fragment}", attributes), name=vertex_name).output()
