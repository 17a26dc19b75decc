"""`orlop completion`."""

from __future__ import annotations

from orlop_cli._command import command
from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "completion",
    "Print a shell script that completes orlop's commands, flags and names of objects",
    usage="bash | fish | zsh",
    least=1,
    most=1,
    examples=[
        "orlop completion bash >>~/.bashrc",
        "orlop completion zsh >~/.zsh/completions/_orlop      a directory of $fpath",
        "orlop completion fish >~/.config/fish/completions/orlop.fish",
    ],
)
def completion(session: Session, args: tuple[str, ...]) -> None:
    from orlop_cli import _completion

    if args[0] not in _completion.SHELLS:
        raise CliError(f"cannot complete in {args[0]!r}: supported shells are {', '.join(_completion.SHELLS)}")
    print(_completion.script(args[0]))
