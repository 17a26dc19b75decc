"""Builds a Dockerfile with two engines, and extracts the parts of the images that must be equal: configuration, history, and
the files of each layer with types, modes, owners, links, attributes and content. Times are compared if the Dockerfile
defines them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.engine import patience
from tests.integration.parity import Other

from .cases import Case
from .cases.case import OLD

__all__ = ["classic_outcome", "docker", "outcome"]

_OF_CLASSIC = ("Image", "Hostname", "Domainname", "ArgsEscaped", "AttachStdin", "AttachStdout", "AttachStderr", "Tty")
STUBS = ("dev", "etc", "proc", "sys")
"""In dockerd's layers, directories remain that its mounts have created or changed. Orlop's layers contain only directories
that the step changed."""


_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "DOCKER_BUILDKIT"}
"""Taken once, because pytest changes it while threads read it."""
_BUILDX = Path("/usr/libexec/docker/cli-plugins/docker-buildx")


def docker(socket: str, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    given = dict(_ENVIRONMENT)
    given |= {
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_CONFIG": f"{socket}.client",  # next to the socket, so it is removed with the engine
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
        "TMPDIR": os.path.dirname(socket),
    }
    given |= env or {}
    # `docker build` runs this program; a direct call takes a third less processor time
    direct = words[0] == "build" and "DOCKER_BUILDKIT" not in given and _BUILDX.exists()
    command = [str(_BUILDX)] if direct else ["docker"]
    return subprocess.run([*command, *words], capture_output=True, env=given, timeout=patience(120), check=False)


def outcome(socket: str, directory: Path, case: Case, name: str, http: str) -> Any:
    """The outcome of a build by BuildKit's protocol: the image, or the message with the lines of the Dockerfile."""
    begun = time.time()
    done = docker(socket, "build", "--progress=plain", "-t", name, *_options(case, directory, http), str(directory))
    if done.returncode:
        lines, message = _message(done.stderr.decode())
        # The client reports what it meets first: the end of the request, or that of the frontend
        message = message.replace("failed to run Build function: ", "failed to solve: ")
        return ("failed", done.returncode, message, lines if case.lines else "")
    return _image(_saved(socket, name), begun)


def classic_outcome(socket: str, directory: Path, case: Case, name: str, http: str) -> Any:
    """The outcome of a build by `POST /build`: the files of the image, and the settings of its containers. Layers differ,
    because dockerd commits a container for each instruction. dockerd's COPY loses the setuid bit."""
    begun = time.time()
    words = ("build", "-t", name, *_options(case, directory, http), str(directory))
    done = docker(socket, *words, env={"DOCKER_BUILDKIT": "0"})
    if done.returncode:
        return ("failed", done.returncode)
    found = _image(_saved(socket, name), begun)
    settings = {key: value for key, value in found["config"]["config"].items() if key not in _OF_CLASSIC and value}
    if settings.get("WorkingDir") == "/":  # dockerd leaves the field out of images from scratch
        del settings["WorkingDir"]
    files: dict[str, Any] = {}
    for layer in found["layers"]:
        for path, entry in layer.items():
            parent, base = os.path.split(path)
            if entry == "deleted":
                gone = os.path.join(parent, base.removeprefix(".wh."))
                files = {each: was for each, was in files.items() if each != gone and not each.startswith(f"{gone}/")}
            else:
                kind, mode, *rest = entry
                files[path] = (kind, oct(int(mode, 8) & 0o777 if kind == "0" else int(mode, 8)), *rest)
    return {"config": settings, "files": files}


def _options(case: Case, directory: Path, http: str) -> list[str]:
    return [each.replace("@CONTEXT@", str(directory)).replace("@HTTP@", http) for each in case.options]


def _saved(socket: str, name: str) -> bytes:
    """The image as an archive."""
    connection = Other(socket)
    try:
        connection.request("GET", f"/v1.43/images/{name}/get")
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, data[:500]
        return data
    finally:
        connection.close()


def _message(text: str) -> tuple[str, str]:
    """The lines of the Dockerfile that a failure shows, and its last message."""
    shown = re.search(r"^\S+:\d+\n-{10,}\n.*?^-{10,}$", text, re.MULTILINE | re.DOTALL)
    line = next((line for line in reversed(text.splitlines()) if line.startswith("ERROR")), text)
    line = text[text.rindex(line) :].strip() if line in text else line
    for pattern, put in (
        (r"ref \S+:", "ref REF:"),
        # BuildKit reports one of the two, depending on its cache of the context
        (r"failed to walk \S+/(\w+): lstat \S+: no such file or directory", r'"/\1/passwd": not found'),
        (r"/\S*/overlay2/\w+/merged", ""),
        (r"sha256:[0-9a-f]{64}", "sha256:..."),
        (r"/tmp/\S*?/context", "CONTEXT"),
        (r"failed to load cache key: repository", "repository"),
        (r"failed to load (cache key|http\S+):", "failed to load SOURCE:"),
        (r" \(did you mean .*\)$", ""),  # newer than BuildKit 0.13
    ):
        line = re.sub(pattern, put, line)
    return shown[0] if shown else "", line


def _image(archive: bytes, begun: float) -> Any:
    with tarfile.open(fileobj=io.BytesIO(archive)) as saved:
        (manifest,) = json.load(saved.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(saved.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layers = []
        for name in manifest["Layers"]:
            content = saved.extractfile(saved.getmember(name))
            assert content is not None
            layers.append(_layer(content.read(), begun))
    assert config.pop("created") and len(config["rootfs"].pop("diff_ids")) == len(layers)
    for entry in config["history"]:
        entry.pop("created")
    return {"config": config, "layers": layers[1:]}


def _time(seconds: float, begun: float) -> float | str:
    """All times of files from contexts are replaced by the same text. The reason: the cache may return a file of another
    case, which has another time."""
    if OLD <= seconds < OLD + 2 * 10**6:
        return "context"
    return seconds if seconds < begun - 3600 else "now"


def _layer(data: bytes, begun: float) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
        found: dict[str, Any] = {}
        for entry in layer:
            if entry.name.rstrip("/") in STUBS and entry.isdir():
                continue
            if os.path.basename(entry.name).startswith(".wh."):
                found[entry.name] = "deleted"
                continue
            reader = layer.extractfile(entry) if entry.isreg() else None
            content = hashlib.sha256(reader.read()).hexdigest()[:12] if reader else ""
            xattrs = {k: v for k, v in entry.pax_headers.items() if k.startswith("SCHILY.xattr.")}
            # Times of directories differ between two builds by one dockerd, because its client sends files in any order
            at = "" if entry.isdir() else _time(entry.mtime, begun)
            found[entry.name.rstrip("/")] = (
                entry.type.decode(),
                oct(entry.mode),
                (entry.uid, entry.gid),
                entry.linkname,
                content,
                at,
                xattrs,
            )
        return found
