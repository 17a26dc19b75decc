"""The front end's key of daemon.json."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from orlop_kernel.config import Config, Keys, Problem
from orlop_sdk import Register, hookimpl

from .versions import API_VERSION, MIN_API_VERSION, parse_version

__all__ = ["ApiKeys"]


class ApiKeys(Keys, frozen=True, kw_only=True):
    min_api_version: str = MIN_API_VERSION

    HELP: ClassVar = {"min-api-version": "Oldest version of the API that the daemon serves"}

    @classmethod
    def complete(cls, values: dict[str, Any], environ: Mapping[str, str], directory: str) -> Iterator[tuple[str, str]]:
        """See Keys."""
        version = environ.get("DOCKER_MIN_API_VERSION")
        if version and "min-api-version" not in values:
            values["min-api-version"] = version
            yield "min-api-version", "environment DOCKER_MIN_API_VERSION"

    def problems(self, config: Config) -> Iterator[Problem]:
        """See Keys."""
        oldest = self.min_api_version
        wrong = f"invalid min-api-version: {oldest}: "
        if oldest[:1] in ("v", "V"):
            yield Problem(wrong + 'API version must be provided without "v" prefix', ("min-api-version",))
        elif not re.fullmatch(r"\d{1,3}\.\d{1,3}", oldest):
            yield Problem(wrong + 'a version like "1.40" is needed', ("min-api-version",))
        elif parse_version(oldest) < parse_version(MIN_API_VERSION):
            yield Problem(wrong + f"minimum supported API version is {MIN_API_VERSION}", ("min-api-version",))
        elif parse_version(oldest) > parse_version(API_VERSION):
            yield Problem(wrong + f"maximum supported API version is {API_VERSION}", ("min-api-version",))


@hookimpl
def orlop_keys(register: Register) -> None:
    register("docker", ApiKeys)
