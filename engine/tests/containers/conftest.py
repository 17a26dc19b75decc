import pytest
import trio

from orlop_engine import commands
from orlop_sdk import DriverError


@pytest.fixture
def runtime(monkeypatch):
    """The verbs that the runtime was called with. `runtime.fails`: verbs for which it fails; `runtime.first` is called
    before the runtime acts."""

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
