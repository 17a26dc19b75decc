"""The operations and options of LLB that the solver executes. Frontends use only capabilities in this list, so a name is
added together with the code that implements it."""

from __future__ import annotations

__all__ = ["CAPABILITIES"]

_HAVE = """
source.image source.image.resolvemode source.metaresolver source.ocilayout
source.local source.local.unique source.local.sessionid source.local.includepatterns source.local.followpaths
source.local.excludepatterns source.local.sharedkeyhint
source.http source.http.checksum source.http.perm source.http.uidgid
source.git source.git.fullurl source.git.keepgitdir source.git.subdir
exec.meta.base exec.meta.cgroup.parent exec.meta.network exec.meta.proxyenv exec.meta.security exec.meta.setsdefaultpath
exec.meta.ulimit exec.meta.removemountstubs.recursive exec.mount.bind exec.mount.bind.readwrite-nooutput exec.mount.cache
exec.mount.cache.sharing exec.mount.selector exec.mount.tmpfs exec.mount.tmpfs.size exec.mount.secret exec.mount.ssh
exec.cgroup exec.secretenv exec.validexitcode
file.base file.rm.wildcard file.copy.includeexcludepatterns file.copy.alwaysreplaceexistingdestpaths file.rm.nofollowsymlink
file.copy.modestring file.symlink.create
mergeop diffop source.buildop.llbfilename
exporter.image.attestations exporter.sourcedateepoch exporter.multiple exporter.image.annotations
constraints platform meta.ignorecache meta.description meta.exportcache
""".split()

CAPABILITIES: dict[str, str] = dict.fromkeys(_HAVE, "")
