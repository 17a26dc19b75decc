"""Environment variables of links, compared with the variables that dockerd 26 sets for the same containers."""

from __future__ import annotations

from orlop_engine.spec import environment
from orlop_engine.spec.link_variables import exposed, of_link


def variables(*ports: str, alias: str = "d") -> list[str]:
    return [*of_link("web", alias, "10.0.0.4", exposed(ports), ("A=1", "NOT SET", "B=x=y", "HOME=/h", "PATH=/bin"))]


def test_environment_variables_describe_a_linked_port() -> None:
    assert variables("5432/tcp", alias="my-db.x") == [
        "MY_DB.X_PORT=tcp://10.0.0.4:5432",
        "MY_DB.X_PORT_5432_TCP=tcp://10.0.0.4:5432",
        "MY_DB.X_PORT_5432_TCP_ADDR=10.0.0.4",
        "MY_DB.X_PORT_5432_TCP_PORT=5432",
        "MY_DB.X_PORT_5432_TCP_PROTO=tcp",
        "MY_DB.X_NAME=/web/my-db.x",
        "MY_DB.X_ENV_A=1",
        "MY_DB.X_ENV_B=x=y",
    ]


def test_link_without_ports_sets_variables_for_the_name_and_the_environment() -> None:
    assert variables() == ["D_NAME=/web/d", "D_ENV_A=1", "D_ENV_B=x=y"]


def test_exposed_ports_are_sorted_by_number_and_tcp_precedes_udp() -> None:
    ports = ["81/udp", "100/tcp", "80/udp", "80/tcp", "9/sctp", "8000-8003/tcp", "nonsense", "x/tcp"]
    assert [f"{port.number}/{port.protocol}" for port in exposed(ports)] == [
        *("9/sctp", "80/tcp", "80/udp", "81/udp", "100/tcp", "8000-8003/tcp"),
    ]


def test_environment_variables_describe_three_consecutive_ports_as_a_range() -> None:
    assert variables("90/tcp", "81/udp", "80/tcp", "82/tcp")[:7] == [
        "D_PORT=tcp://10.0.0.4:80",
        "D_PORT_80_TCP_START=tcp://10.0.0.4:80",
        "D_PORT_80_TCP_ADDR=10.0.0.4",
        "D_PORT_80_TCP_PROTO=tcp",
        "D_PORT_80_TCP_PORT_START=80",
        "D_PORT_80_TCP_END=tcp://10.0.0.4:82",
        "D_PORT_80_TCP_PORT_END=82",
    ]
    assert not [line for line in variables("80/tcp", "81/tcp", "83/tcp", "84/tcp") if "_START" in line]
    assert [line for line in variables("1/tcp", "3/tcp", "4/tcp", "5/tcp") if "PORT_START" in line] == [
        "D_PORT_3_TCP_PORT_START=3"
    ]


def test_user_variables_override_link_variables() -> None:
    found = environment.container("host", False, ["D_NAME=mine"], "/root", variables())
    assert found == [found[0], "HOSTNAME=host", "D_NAME=mine", "D_ENV_A=1", "D_ENV_B=x=y", "HOME=/root"]
