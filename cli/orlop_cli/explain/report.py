"""The result of an explanation, and its two formats: text and JSON."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["Explanation", "shell_word"]

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}


class Explanation:
    """What is known about an object. `facts` are the values behind the sentences, for scripts."""

    def __init__(self, kind: str, name: str, ident: str) -> None:
        self.kind, self.name, self.ident = kind, name, ident
        self.summary = ""
        self.facts: dict[str, Any] = {}
        self.sections: list[tuple[str, list[str]]] = []
        self.next: list[tuple[str, str]] = []

    def add(self, title: str, lines: Iterable[str]) -> None:
        """Add a section. A section without lines is left out."""
        kept = list(lines)
        if kept:
            self.sections.append((title, kept))

    def suggest(self, command: str, purpose: str) -> None:
        """Add a command to run next, unless the list has it already."""
        if command not in [known for known, _ in self.next]:
            self.next.append((command, purpose))

    def text(self) -> str:
        """Format for people. Control characters, which logs and errors may contain, are escaped, because they could change
        the terminal's state."""
        lines = [f"{self.kind} {self.name}: {self.summary}"]
        for title, content in self.sections:
            lines += ["", f"{title}:", *(f"  {line}" for line in content)]
        if self.next:
            width = max(len(command) for command, _ in self.next)
            lines += ["", "Next:", *(f"  {command:<{width}}   {purpose}" for command, purpose in self.next)]
        return "\n".join(line.translate(_CONTROL).rstrip() for line in lines) + "\n"

    def document(self) -> dict[str, Any]:
        """Format for scripts."""
        return {
            "Kind": self.kind.lower(),
            "Name": self.name,
            "ID": self.ident,
            "Summary": self.summary,
            "Facts": self.facts,
            "Sections": [{"Title": title, "Lines": lines} for title, lines in self.sections],
            "Next": [{"Command": command, "Purpose": purpose} for command, purpose in self.next],
        }


def shell_word(text: str) -> str:
    """Quote a word for the shell, if it needs quotes."""
    plain = all(char.isascii() and (char.isalnum() or char in "@%+=:,./-_") for char in text)
    return text if text and plain else "'" + text.replace("'", "'\"'\"'") + "'"
