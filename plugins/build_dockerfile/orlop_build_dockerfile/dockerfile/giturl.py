"""URLs of git repositories: "https://host/repo.git#ref:dir", "git@host:repo", with options in a query."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import parse_qs, urlsplit

import msgspec

from .goformat import parse_bool, quote

__all__ = ["GitUrl", "parse_git_url"]

_SCP = re.compile(r"(?:([A-Za-z0-9_.+-]+)@)([^:/\s]+):([^#?]*)(?:\?([^#]*))?(?:#(.*))?")


class GitUrl(msgspec.Struct, frozen=True, kw_only=True):
    """`remote` is the URL for git. `identity` is its host and path, which is the same for all protocols. `like_local` marks
    "github.com/...", which may also be a directory. It is treated as a repository only as a build's context."""

    remote: str
    identity: str
    scheme: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    like_local: bool = False


def parse_git_url(text: str) -> GitUrl | None:
    """Parse a URL. Returns None if the text is not the URL of a repository. Raises `ValueError` if its options are
    invalid."""
    if text.startswith(("./", "../")):
        return None
    like_local = text.startswith("github.com/")
    if like_local:
        text = "https://" + text
    if "://" not in text:
        return _scp(text)
    try:
        parts = urlsplit(text)
        host = parts.netloc
        parts.port  # noqa: B018  raises for a port that is no number
    except ValueError:
        return None
    if parts.scheme not in ("http", "https", "git", "ssh"):
        return None
    if parts.scheme in ("http", "https") and not like_local and not parts.path.endswith(".git"):
        return None
    remote = f"{parts.scheme}://{host}{parts.path}"
    identity = host.rpartition("@")[2] + posixpath.join("/", parts.path)
    if like_local:
        remote = remote.removeprefix("https://")
    url = GitUrl(remote=remote, identity=identity, scheme=parts.scheme, like_local=like_local)
    return _with_options(url, parts.query, parts.fragment)


def _scp(text: str) -> GitUrl | None:
    match = _SCP.fullmatch(text)
    if match is None:
        return None
    user, host, path, query, fragment = match.groups()
    identity = host + posixpath.normpath(posixpath.join("/", path))
    url = GitUrl(remote=f"{user}@{host}:{path}", identity=identity, scheme="ssh")
    return _with_options(url, query or "", fragment or "")


def _with_options(url: GitUrl, query: str, fragment: str) -> GitUrl:
    ref, colon, subdir = fragment.partition(":")
    subdir = posixpath.normpath(posixpath.join("/", subdir)).lstrip("/") if colon and subdir else ""
    values: dict[str, str | bool] = {"ref": ref, "subdir": subdir}
    named: dict[str, str] = {}
    for key, given in parse_qs(query, keep_blank_values=True, max_num_fields=50).items() if query else ():
        if len(given) > 1:
            raise ValueError(f"query {quote(key)} has multiple values")
        _option(values, named, key, given[0])
    for kind, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if kind not in named:
            continue
        if kind == "branch" and "tag" in named:
            raise ValueError("branch conflicts with tag")
        _set(values, "ref", named[kind] if named[kind].startswith(prefix) else prefix + named[kind])
    if values.get("checksum") and not values["ref"]:
        values["ref"] = values["checksum"]
    return msgspec.structs.replace(url, **values)


def _set(values: dict[str, str | bool], key: str, value: str) -> None:
    if values.get(key) and values[key] != value:
        raise ValueError(f"{key} conflicts: {quote(str(values[key]))} vs {quote(value)}")
    values[key] = value


def _option(values: dict[str, str | bool], named: dict[str, str], key: str, value: str) -> None:
    if key in ("keep-git-dir", "submodules"):
        parsed = parse_bool(value) if value else True
        if parsed is None:
            raise ValueError(f"invalid {key} value: {quote(value)}")
        values[key.replace("-", "_")] = parsed
        return
    if not value:
        raise ValueError(f"query {quote(key)} has no value")
    if key in ("ref", "subdir"):
        _set(values, key, value)
    elif key in ("tag", "branch"):
        named[key] = value
    elif key in ("checksum", "commit"):
        values["checksum"] = value
    else:
        raise ValueError(f"unexpected query {quote(key)}")
