"""A daemon with listeners of several roles and labels, and clients of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.integration.engine import Engine, Result, UnixConnection

TEAM = "com.example.team"


class EngineFixture:
    """One daemon with a listener for each kind of client."""

    def __init__(self) -> None:
        self.engine = Engine()
        home = self.engine.home
        self.audit = home / "log" / "audit.log"

        def policy(name: str, role: str, **more: Any) -> dict[str, Any]:
            return {"host": f"unix://{home}/{name}.sock", "role": role, **more}

        self.config: dict[str, Any] = {
            "listeners": [
                policy("read", "read-only", mode="0600"),
                policy("env", "read-only", **{"show-env": True, "group": "nogroup"}),
                policy("ci", "no-exec"),
                policy("web", "full", labels=[f"{TEAM}=web"], **{"shared-images": True}),
                policy("db", "full", labels=[f"{TEAM}=db"]),
                policy("webread", "read-only", labels=[f"{TEAM}=web"]),
            ],
            "audit-log": {"path": str(self.audit), "max-size": "1m"},
        }
        self.engine.configure(self.config)
        self.engine.start()
        self.engine.load()
        self.engine.ok(
            "run", "-d", "--name", "web1", "-l", f"{TEAM}=web", "-e", "PASSWORD=secret", "busybox", "sh", "-c", SERVE
        )
        self.engine.ok("run", "-d", "--name", "db1", "-l", f"{TEAM}=db", "busybox", "sleep", "600")

    def docker(self, policy: str, *argv: str) -> Result:
        return self.engine.run(["docker", "-H", f"unix://{self.engine.home}/{policy}.sock", *argv])

    def ok(self, policy: str, *argv: str) -> str:
        result = self.docker(policy, *argv)
        assert result.code == 0, result.err
        return result.line

    def denied(self, policy: str, *argv: str) -> str:
        result = self.docker(policy, *argv)
        assert result.code != 0, result.out
        return result.err

    def curl(self, policy: str, *argv: str) -> str:
        *flags, path, write, form = argv
        socket = f"{self.engine.home}/{policy}.sock"
        return self.engine.run(["curl", "-s", "--unix-socket", socket, *flags, f"http://d/v1.45{path}", write, form]).out

    def api(self, policy: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = UnixConnection(f"{self.engine.home}/{policy}.sock")
        try:
            data = json.dumps(body).encode() if body is not None else None
            connection.request(method, f"/v1.45{path}", data, {"Content-Type": "application/json"} if data else {})
            answer = connection.getresponse()
            text = answer.read()
            return answer.status, json.loads(text) if text.strip() and "json" in (
                answer.getheader("Content-Type") or ""
            ) else text
        finally:
            connection.close()

    def lines(self, **wanted: Any) -> list[dict[str, Any]]:
        whole = self.audit.read_text().rpartition("\n")[0]  # the daemon may be writing the last line
        found = [json.loads(line) for line in whole.splitlines()]
        return [line for line in found if all(line.get(key) == value for key, value in wanted.items())]


SERVE = "echo hello; sleep 600"


def serving() -> Iterator[EngineFixture]:
    """Yields the daemon of a fixture. When the daemon ends, it must leave nothing behind."""
    made = EngineFixture()
    try:
        yield made
    finally:
        left = made.engine.close()
    assert left == []
