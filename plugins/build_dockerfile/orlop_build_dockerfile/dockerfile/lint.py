"""Docker's checks of Dockerfiles: the rules, the options that disable them, and their findings."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from .goformat import parse_bool, quote
from .interface import DockerfileError, SourceRange

__all__ = ["RULES", "Finding", "LintConfig", "Linter", "Rule", "parse_lint_options"]

_MOST = 500
_URL = "https://docs.docker.com/go/dockerfile/rule/"


class Rule(msgspec.Struct, frozen=True):
    name: str
    description: str
    experimental: bool = False

    @property
    def url(self) -> str:
        if self.name == "InvalidBaseImagePlatform":
            return ""  # Docker has no page for this rule
        words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z][a-z]+", self.name)
        return _URL + "-".join(words).lower() + "/"


RULES = {
    rule.name: rule
    for rule in (
        Rule("StageNameCasing", "Stage names should be lowercase"),
        Rule("FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword"),
        Rule("NoEmptyContinuation", "Empty continuation lines will become errors in a future release"),
        Rule(
            "ConsistentInstructionCasing",
            "All commands within the Dockerfile should use the same casing (either upper or lower)",
        ),
        Rule("DuplicateStageName", "Stage names should be unique"),
        Rule("ReservedStageName", "Reserved words should not be used as stage names"),
        Rule(
            "JSONArgsRecommended",
            "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        ),
        Rule(
            "MaintainerDeprecated",
            "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        ),
        Rule("UndefinedArgInFrom", "FROM command must use declared ARGs"),
        Rule(
            "WorkdirRelativePath",
            "Relative workdir without an absolute workdir declared within the build can have unexpected results if the "
            "base image changes",
        ),
        Rule("UndefinedVar", "Variables should be defined before their use"),
        Rule(
            "MultipleInstructionsDisallowed",
            "Multiple instructions of the same type should not be used in the same stage",
        ),
        Rule("LegacyKeyValueFormat", "Legacy key/value format with whitespace separator should not be used"),
        Rule("InvalidBaseImagePlatform", "Base image platform does not match expected target platform"),
        Rule(
            "RedundantTargetPlatform",
            "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        ),
        Rule("SecretsUsedInArgOrEnv", "Sensitive data should not be used in the ARG or ENV commands"),
        Rule(
            "InvalidDefaultArgInFrom",
            "Default value for global ARG results in an empty or invalid base image name",
        ),
        Rule("FromPlatformFlagConstDisallowed", "FROM --platform flag should not use a constant value"),
        Rule("CopyIgnoredFile", "Attempting to Copy file that is excluded by .dockerignore", experimental=True),
        Rule(
            "InvalidDefinitionDescription",
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is "
            "not intended to be a description comment, add an empty line or comment between the instruction and the "
            "comment.",
            experimental=True,
        ),
        Rule("ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase"),
        Rule(
            "ExposeInvalidFormat",
            "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a "
            "future release",
        ),
    )
}


class LintConfig(msgspec.Struct, frozen=True):
    """`skip` and `experimental` are names of rules; "all" means every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False


class Finding(msgspec.Struct, frozen=True):
    rule: Rule
    message: str
    ranges: tuple[SourceRange, ...]


def parse_lint_options(text: str) -> LintConfig:
    """The value of `# check=`: "skip=RULE,RULE;experimental=all;error=true". Raises `ValueError` with BuildKit's message."""
    text = text.strip()
    if not text:
        return LintConfig()
    values: dict[str, frozenset[str]] = {}
    error = False
    for part in text.split(";", 2):
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals:
            raise ValueError(f"invalid check option {quote(part)}")
        if key in ("skip", "experimental"):
            values[key] = frozenset(item.strip() for item in value.split(","))
        elif key == "error":
            parsed = parse_bool(value)
            if parsed is None:
                raise ValueError(
                    f"failed to parse check option {quote(part)}: strconv.ParseBool: parsing {quote(value)}: invalid syntax"
                )
            error = parsed
        else:
            raise ValueError(f"invalid check option {quote(key)}")
    return LintConfig(values.get("skip", frozenset()), values.get("experimental", frozenset()), error)


class Linter:
    """Collects findings. Each finding is collected once, even if its instruction is checked several times."""

    def __init__(self, config: LintConfig, found: dict[Finding, None] | None = None) -> None:
        self.config = config
        self.found: dict[Finding, None] = {} if found is None else found

    @property
    def full(self) -> bool:
        """Whether the maximum number of findings is reached."""
        return len(self.found) >= _MOST

    def report(self, rule: str, ranges: Sequence[SourceRange], message: str) -> None:
        known = RULES[rule]
        if known.experimental:
            if not self.config.experimental & {"all", rule}:
                return
        elif self.config.skip & {"all", rule}:
            return
        if not self.full:
            self.found.setdefault(Finding(known, message, tuple(ranges)))

    def with_comments(self, comments: tuple[str, ...]) -> Linter:
        """The linter for an instruction. A comment "# check=skip=RULE" before the instruction disables rules."""
        for comment in comments:
            if not comment.startswith("check="):
                continue
            try:
                own = parse_lint_options(comment.removeprefix("check="))
            except ValueError:
                continue  # another kind of comment
            config = LintConfig(self.config.skip | own.skip, self.config.experimental | own.experimental, self.config.error)
            return Linter(config, self.found)
        return self

    def fail_if_asked(self) -> None:
        """Raise an error for findings if "# check=error=true" is set."""
        if self.config.error and self.found:
            rules = dict.fromkeys(finding.rule.name for finding in self.found)
            ranges = sorted({item for finding in self.found for item in finding.ranges}, key=lambda item: item.start.line)
            raise DockerfileError(f"lint violation found for rules: {', '.join(rules)}", ranges=ranges)
