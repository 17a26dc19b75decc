"""Sizes and durations in Docker's notations (docker/go-units, Go's time.Duration)."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from decimal import Decimal


_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
_SUFFIX = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def _scaled(size: float, base: float, units: tuple[str, ...]) -> tuple[float, str]:
    at = 0
    while size >= base and at < len(units) - 1:
        size /= base
        at += 1
    return size, units[at]


def human_size(size: float, digits: int = 3) -> str:
    """Format a size with powers of 1000 and three significant digits: `1.23MB`, `0B`."""
    value, unit = _scaled(size, 1000.0, _DECIMAL)
    text = f"{value:.{digits}g}"
    return f"{value:.0f}{unit}" if "e" in text else text + unit  # 999.9 rounds to an exponent


def bytes_size(size: float) -> str:
    """Format a size with powers of 1024 and four significant digits: `12.5MiB`."""
    value, unit = _scaled(size, 1024.0, _BINARY)
    return f"{value:.4g}{unit}"


def parse_bytes(text: str) -> int:
    """Parse a size such as `512m`, `1.5g`, `64k`, `100` (powers of 1024, optional `b`/`ib`) to bytes. Raises ValueError."""
    import re

    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?([kmgtp]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    from decimal import Decimal  # imported here, because the import takes 1.3 ms and `ps` parses no sizes

    return _int64(Decimal(match[1]) * 1024 ** _SUFFIX[match[2]], f"invalid size: '{text}'")


def parse_cpus(text: str) -> int:
    """Parse a decimal number of CPUs to billionths, without rounding. Raises ValueError."""
    from decimal import Decimal

    wrong = f"failed to parse {text} as a rational number"
    try:
        nano = Decimal(text) * 10**9
    except ArithmeticError:  # the text is no number, or its exponent is out of range
        raise ValueError(wrong) from None
    whole = _int64(nano, wrong)
    if nano != whole:
        raise ValueError("value is too precise")
    return whole


def _int64(number: Decimal, wrong: str) -> int:
    """Convert to a 64-bit integer, as in Go and the API. Raises ValueError for infinity, NaN and larger numbers."""
    if not (number.is_finite() and abs(number) < 1 << 63):
        raise ValueError(wrong)
    return int(number)


def parse_duration(text: str) -> int:
    """Parse a duration in Go's syntax (`1h30m`, `1.5s`, `-2m`, `0`) to nanoseconds. Raises ValueError."""
    import re

    body = text.lstrip("+-")
    if body == "0":
        return 0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f'time: invalid duration "{text}"')
    from decimal import Decimal

    wrong = f'time: invalid duration "{text}"'
    total = sum(_int64(Decimal(number) * _NANOSECONDS[unit], wrong) for number, unit in parts)
    return -total if text.startswith("-") else total


def human_duration(seconds: float) -> str:
    """Format a duration like go-units' HumanDuration: `Less than a second`, `5 minutes`, `About an hour`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = int(seconds / 60)
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, unit, name in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 365 * 2, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // unit} {name}"
    return f"{int(seconds / 3600 / 24 / 365)} years"
