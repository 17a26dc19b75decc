"""Where the adapter looks for a plugin."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from orlop_docker_plugins import address, orlop_find_driver
from orlop_sdk import DriverError


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(dir="/tmp") as made:  # paths of sockets must be short
        for name in ("run", "etc", "lib"):
            (Path(made) / name).mkdir()
        yield Path(made)


def find(directory: Path, name: str) -> tuple[address.Address | None, list[str]]:
    looked: list[str] = []
    specs = (str(directory / "etc"), str(directory / "lib"))
    return address.find(name, looked.append, str(directory / "run"), specs), looked


def listen(path: Path) -> socket.socket:
    path.parent.mkdir(exist_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    return made


def test_socket_is_found_before_files_and_etc_before_usr_lib(directory: Path) -> None:
    (directory / "lib/p.spec").write_text("unix:///lib.sock\n")
    assert find(directory, "p")[0] == address.Address("unix:///lib.sock", "/lib.sock")
    (directory / "etc/p.json").write_text(json.dumps({"Name": "p", "Addr": "tcp://[::1]:99"}))
    assert find(directory, "p")[0] == address.Address("tcp://[::1]:99", "", "::1", 99)
    (directory / "etc/p").mkdir()
    (directory / "etc/p/p.spec").write_text("unix:///etc.sock")
    assert find(directory, "p")[0] == address.Address("unix:///etc.sock", "/etc.sock")
    with closing(listen(directory / "run/p/p.sock")):
        assert find(directory, "p")[0] == address.Address(f"unix://{directory}/run/p/p.sock", f"{directory}/run/p/p.sock")


def test_search_names_the_places_where_a_plugin_could_be(directory: Path) -> None:
    (directory / "run/p.sock").write_text("not a socket")
    found, looked = find(directory, "p")
    assert found is None
    assert looked == [
        f"{directory}/run/p.sock",
        f"{directory}/etc/p.spec or .json",
        f"{directory}/lib/p.spec or .json",
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "../run/p", "a/b", "a..b", "p\0", "p\n", "-p", "x" * 200, "org/p:latest"])
def test_names_that_are_no_file_names_are_not_looked_up(directory: Path, name: str) -> None:
    (directory / "p.spec").write_text("unix:///p.sock")
    assert find(directory, name) == (None, [])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("p.spec", "p.sock", 'the address "p.sock" is neither'),
        ("p.spec", "unix://relative", "is neither"),
        ("p.spec", "ftp://h:1", "is neither"),
        ("p.spec", b"\xff", "cannot use"),
        ("p.json", "{", "cannot use"),
        ("p.json", '{"Addr": 3}', "cannot use"),
        ("p.json", '{"Addr": "https://h:1", "TLSConfig": {"CAFile": "/no/such/file"}}', "cannot use"),
    ],
)
def test_file_without_an_address_is_an_error_that_names_the_file(
    directory: Path, file: str, content: str | bytes, message: str
) -> None:
    (directory / "etc" / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DriverError, match=message) as raised:
        find(directory, "p")
    assert f"{directory}/etc/{file}" in str(raised.value) or "/no/such/file" in str(raised.value)


@pytest.mark.parametrize("kind", ["storage", "log", "network", "runtime"])
def test_adapter_finds_volume_drivers_only(kind: str) -> None:
    looked: list[str] = []
    assert orlop_find_driver(kind, "p", looked.append) is None and not looked


def test_directories_are_those_of_docker() -> None:
    assert (address.SOCKETS, address.SPECS) == ("/run/docker/plugins", ("/etc/docker/plugins", "/usr/lib/docker/plugins"))
