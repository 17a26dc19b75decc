"""A row of a listing, as templates see it. Separate from the evaluator, which a plain `orlop ps` does not import."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the time that its import takes
if TYPE_CHECKING:
    from typing import Any, ClassVar


class Row:
    """One row of a listing. Placeholders are methods without an underscore; FIELDS are those that `json` prints."""

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
    """Column titles for a table's header line; `.Label "k"` has its argument as the title."""

    def __init__(self, titles: dict[str, str]) -> None:
        self._titles = titles

    def field(self, name: str, *args: Any) -> Any:
        return args[0] if args else self._titles.get(name, name.upper())
