"""Each operation that may be the first to need the HTTP client imports it on a thread, because an import on the event
loop would delay all clients."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import sys, tempfile, threading, trio
from tests.registry.fakes import drain, open_images
from orlop_engine.config import Config
from orlop_engine.images.imports import ImportRequest
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.registry_auth import ANONYMOUS
from orlop_engine.images.transfers import PushRequest
from orlop_engine.system.login import check_login
from orlop_sdk import OrlopError

found = []


class Finder:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            found.append(name.partition(".")[0])


async def nothing():
    return
    yield b""


async def main(directory):
    async with open_images(directory) as fixture:
        images = fixture.images
        sys.meta_path.insert(0, Finder())
        try:
            OPERATION
        except OrlopError as error:
            print(str(error).replace("\\n", " "))
        sys.meta_path.pop(0)
    print(*sorted({"httpx", "httpcore", "h11", "h2"} & set(found)), sep=",")
    assert "httpcore" in sys.modules


with tempfile.TemporaryDirectory() as directory:
    trio.run(main, directory)
"""


@pytest.mark.parametrize(
    "operation",
    [
        'await drain(images.pull(PullRequest(parse("127.0.0.1:1/a:b"))))',
        'await images.search("127.0.0.1:1/a", 1, {})',
        'await drain(await images.import_image(ImportRequest("http://127.0.0.1:1/x"), nothing()))',
        'await check_login(Config(), "127.0.0.1:1", ANONYMOUS)',
    ],
    ids=["pull", "search", "import", "login"],
)
def test_first_operation_that_needs_the_http_client_imports_it_on_a_thread(operation: str) -> None:
    program = _PROGRAM.replace("OPERATION", operation)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    error, _, imported = done.stdout.removesuffix("\n").rpartition("\n")
    assert "connection refused" in error.lower(), done.stdout
    assert imported == ""
