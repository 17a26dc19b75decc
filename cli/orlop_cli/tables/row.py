"""A row of a list, for templates. This is a separate module, so that a plain `orlop ps` does not import the evaluator of
templates."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any, ClassVar


class Row:
    """One row of a list. Placeholders are methods without an underscore; FIELDS are the placeholders that `json` prints."""

    FIELDS: ClassVar[tuple[str, ...]] = ()
    HEADERS: ClassVar[dict[str, str]] = {}

    def field(self, name: str, *args: Any) -> Any:
        method = getattr(self, name, None) if name[:1].isupper() and name not in ("FIELDS", "HEADERS") else None
        from orlop_cli.tables.parse import TemplateError

        if method is None:
            raise TemplateError(f"can't evaluate field {name}; known are: {', '.join('.' + f for f in self.FIELDS)}")
        try:
            return method(*args)
        except TypeError:
            raise TemplateError(f"wrong number of arguments for {name}") from None

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name)() for name in self.FIELDS}


class Headers(Row):
    """The column titles for a table's header line. The title of `.Label "k"` is its argument."""

    def __init__(self, titles: dict[str, str]) -> None:
        self._titles = titles

    def field(self, name: str, *args: Any) -> Any:
        return args[0] if args else self._titles.get(name, name.upper())
