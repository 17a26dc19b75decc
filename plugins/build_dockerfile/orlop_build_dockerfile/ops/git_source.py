"""The source git: repositories, fetched by the host's git program. A commit that was fetched before is taken from the cache.

The author of a repository decides what the program reads. The program therefore runs without the machine's configuration,
hooks, credential helpers and local protocols."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.dockerfile.goformat import quote
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Made, join_key
from orlop_engine.commands import run_supervised
from orlop_sdk import Command
from orlop_sdk.files import delete_tree

from . import paths
from .copying import Copier, Options

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["git_source"]

_TIMEOUT = 1800.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REMOTE = re.compile(r"(https?|ssh|git)://[^\s-]\S*|[\w.-]+@[\w.-]+:\S+")
_REF = re.compile(r"[^-\s:~^?*\[\\][^\s:~^?*\[\\]*")
# The builder's umask is 0, and the files that git makes become files of an image
_UMASK = ("/bin/sh", "-c", 'umask 022; exec "$0" "$@"')
_SAFE = (
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "protocol.allow=never"),
    *("-c", "protocol.https.allow=always"),
    *("-c", "protocol.http.allow=always"),
    *("-c", "protocol.ssh.allow=always"),
    *("-c", "protocol.git.allow=always"),
    *("-c", "core.fsmonitor=false"),
    *("-c", "safe.directory=*"),
)


class _Git:
    """Runs git for one build, with its credentials."""

    def __init__(self, job: SolverJob, program: str, header: str) -> None:
        self._job, self._program, self._header = job, program, header

    async def run(self, *words: str, cwd: str = "/", what: str) -> str:
        env = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "LC_ALL": "C",
            "GIT_SSH_COMMAND": "ssh -F /dev/null -o BatchMode=yes",
            **{name.lower(): value for name, value in self._job.core.settings.proxies.items()},
        }
        if self._header:  # passed in the environment, because arguments can be read by every process
            env |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "http.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: {self._header}",
            }
        command = Command((*_UMASK, self._program, *_SAFE, *words), tuple(env.items()), cwd, timeout=_TIMEOUT)
        outcome = await run_supervised(command, limit=4 << 20)
        if outcome.status or outcome.timed_out:
            said = outcome.stderr.decode("utf-8", "replace").strip()[-2000:]
            raise BuildFailed(f"failed to {what}: {said or f'git ended with {outcome.status}'}")
        return outcome.stdout.decode("utf-8", "replace")


async def git_source(job: SolverJob, vertex: Vertex, rest: str) -> Made:
    attrs = vertex.op.source.attrs
    address, _, fragment = rest.partition("#")
    ref, _, subdir = fragment.partition(":")
    remote = attrs.get("git.fullurl", "") or f"https://{address}"
    if not _REMOTE.fullmatch(remote) or (ref and not _REF.fullmatch(ref)):
        raise BuildFailed(f"invalid git source {remote[:200]}#{ref[:200]}", code=3)
    # Git follows redirects and submodules itself, so it cannot be limited to public addresses
    if job.core.settings.public_only:
        raise BuildFailed(
            "git repositories are not allowed on this listener: git's connections cannot be limited to public addresses",
            code=7,
        )
    program = shutil.which("git")
    if program is None:
        raise BuildFailed(f"cannot fetch {remote}: the program git is not installed on the daemon's machine")
    keep = attrs.get("git.keepgitdir", "") == "true"
    async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:
        tool = _Git(job, program, await _authorization(job, vertex))
        commit = ref if _COMMIT.fullmatch(ref) else await _resolve(tool, remote, ref)
        _check(attrs.get("git.checksum", ""), commit)
        job.materials[vertex.digest] = (f"{remote}#{ref}" if ref else remote, f"sha1:{commit}")
        submodules = attrs.get("git.skipsubmodules", "") != "true"
        key = join_key("git", remote, commit, paths.clean(subdir), str(keep), str(submodules), ref if keep else "")
        record = None if vertex.ignore_cache else job.core.records.find(key)
        if record is not None:
            shown.cached = True
            job.core.records.use(record, job.lease)
            return Made(job.core, record, 0)
        checkout = _Checkout(job, tool, remote, ref, commit, subdir, keep, submodules)
        record = await job.core.shared_step(job, key, lambda lease: checkout.make(key, shown, lease))
        return Made(job.core, record, 0)


def _check(checksum: str, commit: str) -> None:
    if checksum and not commit.startswith(checksum):
        raise BuildFailed(f"expected checksum to match {checksum}, got {commit}")


async def _authorization(job: SolverJob, vertex: Vertex) -> str:
    """The value of an Authorization header, from the client's secrets."""
    attrs = vertex.op.source.attrs
    for attribute, token in (("git.authheadersecret", False), ("git.authtokensecret", True)):
        name = attrs.get(attribute, "")
        data = await job.build.session.secret(name) if name else None
        if data:
            text = data.decode("utf-8", "replace").strip()
            return "basic " + base64.b64encode(f"x-access-token:{text}".encode()).decode() if token else text
    return ""


async def _resolve(tool: _Git, remote: str, ref: str) -> str:
    """The commit of a ref at the remote. Tags come before branches. For an annotated tag, this is the commit that the tag
    refers to."""
    wanted = ref or "HEAD"
    names = [wanted, f"refs/tags/{wanted}^{{}}", f"refs/tags/{wanted}", f"refs/heads/{wanted}"]
    listed = await tool.run("ls-remote", "--", remote, *names, what=f"fetch remote {remote}")
    found = {name: commit for commit, _, name in (line.partition("\t") for line in listed.splitlines())}
    order = [f"refs/tags/{wanted}^{{}}", f"refs/tags/{wanted}", f"refs/heads/{wanted}", wanted]
    commit = next((found[name] for name in order if name in found), "")
    if not _COMMIT.fullmatch(commit):
        raise BuildFailed(f"repository does not contain ref {wanted}, output: {quote(listed[:500])}")
    return commit


class _Checkout:
    def __init__(
        self, job: SolverJob, tool: _Git, remote: str, ref: str, commit: str, subdir: str, keep: bool, submodules: bool
    ) -> None:
        self._job, self._core, self._git = job, job.core, tool
        self._remote, self._ref, self._commit, self._subdir = remote, ref, commit, subdir
        self._keep, self._submodules = keep, submodules

    async def make(self, key: str, shown: Shown, lease: Lease) -> Record:
        core = self._core
        async with self._place() as place:
            tree = os.path.join(place, "tree")
            await self._fetch(tree)
            shown.log(f"{self._commit}\trefs/{self._ref or 'HEAD'}\n".encode())
            async with core.active("") as active:
                async with core.views.write(active.key) as root:
                    await core.file_work(lambda: self._copy(tree, root))
                snapshot = await active.commit()
        description = f"git snapshot for {self._remote}#{self._ref or self._commit}"
        return await core.records.add(key, {0: (snapshot, "")}, lease, description=description[:500])

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[str]:
        path = os.path.join(self._core.directory, f"unpack-{secrets.token_hex(8)}")
        os.mkdir(path, 0o700)
        try:
            yield path
        finally:
            with trio.move_on_after(30, shield=True):
                await trio.to_thread.run_sync(delete_tree, path)

    async def _fetch(self, tree: str) -> None:
        tool, what = self._git, f"fetch remote {self._remote}"
        await tool.run("init", "-q", "-b", "master", "--", tree, what=what)
        await tool.run("remote", "add", "origin", self._remote, cwd=tree, what=what)
        try:
            await tool.run("fetch", "-q", "--depth=1", "origin", self._commit, cwd=tree, what=what)
        except BuildFailed:
            # Servers may refuse commits that are not the target of a ref
            await tool.run("fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*", cwd=tree, what=what)
        await tool.run("checkout", "-q", "--detach", self._commit, cwd=tree, what=f"checkout remote {self._remote}")
        if self._submodules and os.path.lexists(os.path.join(tree, ".gitmodules")):
            words = ("submodule", "update", "--init", "--recursive", "--depth=1")
            await tool.run(*words, cwd=tree, what=f"update submodules for {self._remote}")

    def _copy(self, tree: str, root: int) -> None:
        exclude = () if self._keep else (".git", "**/.git")
        source = paths.clean(self._subdir)
        with paths.opened(os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as top:
            if paths.lookup(top, source, follow=False) is None:
                raise BuildFailed(f"subdir {self._subdir} does not exist in {self._remote}")
            options = Options(contents=True, exclude=exclude)
            Copier(top, root, options).copy(source, "/")
