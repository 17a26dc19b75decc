import pytest
import trio

from orlop_engine import commands
from orlop_sdk import DriverError


@pytest.fixture
def runtime(monkeypatch):
    """A list of the runtime's commands that were run. The commands in `runtime.fails` fail. `runtime.first` is called before
    each command."""

    class Asked(list):
        fails, first = (), None

    asked = Asked()

    async def check(command, what):
        verb = what.split()[0]
        await trio.lowlevel.checkpoint()
        if asked.first:
            await asked.first(verb)
        asked.append(verb)
        if verb in asked.fails:
            raise DriverError(f"cannot {what}")

    monkeypatch.setattr(commands, "check", check)
    return asked
