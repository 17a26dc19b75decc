"""Docker's checks, and `--call check|outline|targets`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dockerfile_build import BUSYBOX, build, failing, image, operations

from orlop_build_dockerfile.dockerfile.lint import RULES


def _findings(dockerfile: str, options: dict[str, str] | None = None, **more: Any) -> list[str]:
    converted = build(dockerfile, options, **more)
    return [f"{warned.rule} {warned.ranges[0].start.line}" for warned in converted.warnings]


@pytest.mark.parametrize(
    ("dockerfile", "expected"),
    [
        ("FROM busybox AS Big\n", ["StageNameCasing 1"]),
        ("FROM busybox as a\n", ["FromAsCasing 1"]),
        ("from busybox AS a\n", ["FromAsCasing 1"]),
        ("From busybox as a\nRUN b\n", ["ConsistentInstructionCasing 1"]),
        ("FROM busybox\nrun a\nRUN b\n", ["ConsistentInstructionCasing 2"]),
        ("from busybox\nRUN a\nrun b\n", ["ConsistentInstructionCasing 2"]),
        ("from busybox\nrun a\n", []),
        ("FROM busybox AS a\nFROM busybox AS a\n", ["DuplicateStageName 2"]),
        ("FROM busybox AS scratch\nFROM busybox AS context\n", ["ReservedStageName 1", "ReservedStageName 2"]),
        ("FROM busybox\nRUN a \\\n\n b\nRUN c\n", ["NoEmptyContinuation 4"]),
        ("FROM busybox\nCMD a\n", ["JSONArgsRecommended 2"]),
        ('FROM busybox\nSHELL ["x"]\nCMD a\nENTRYPOINT b\n', []),
        ("FROM busybox\nMAINTAINER me\n", ["MaintainerDeprecated 2"]),
        ("FROM busybox${tag}\n", ["UndefinedArgInFrom 1"]),
        ("ARG tag\nFROM busybox${tag}\n", []),
        ("FROM busybox${BUILDVARIANT}\n", []),
        ("FROM busybox\nWORKDIR a\nWORKDIR b\n", ["WorkdirRelativePath 2"]),
        ("FROM busybox AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", []),
        ("FROM busybox\nCOPY $a /\n", ["UndefinedVar 2"]),
        ("FROM busybox\nARG a\nCOPY x$a /\n", []),
        ("FROM busybox AS b\nARG a\nFROM b\nCOPY x$a /\n", []),
        ('FROM busybox\nCMD ["a"]\nENV b=c\nCMD ["d"]\n', ["MultipleInstructionsDisallowed 2"]),
        ('FROM busybox AS a\nCMD ["a"]\nFROM a\nCMD ["d"]\n', []),
        ("FROM busybox\nENV a b\nLABEL c d\n", ["LegacyKeyValueFormat 2", "LegacyKeyValueFormat 3"]),
        ("FROM --platform=$TARGETPLATFORM busybox\n", ["RedundantTargetPlatform 1"]),
        ("FROM --platform=$BUILDPLATFORM busybox\n", []),
        ("FROM --platform=linux/amd64 busybox\n", ["FromPlatformFlagConstDisallowed 1"]),
        ("FROM --platform=linux/amd64 busybox AS my-amd64\n", []),
        (
            "FROM busybox\nARG api_key\nENV PUBLIC_KEY=x\nENV token=x\n",
            ["SecretsUsedInArgOrEnv 2", "SecretsUsedInArgOrEnv 4"],
        ),
        ("FROM busybox\nEXPOSE 80/TCP\nEXPOSE 1.2.3.4:1:2\n", ["ExposeProtoCasing 2", "ExposeInvalidFormat 3"]),
        ("# check=skip=all\nFROM busybox as A\ncmd x\n", []),
        ("# check=skip=FromAsCasing,StageNameCasing\nFROM busybox as A\n", []),
        ("FROM busybox\n# check=skip=JSONArgsRecommended\nCMD a\n", []),
    ],
)
def test_each_lint_rule_reports_the_line_of_the_mistake(dockerfile: str, expected: list[str]) -> None:
    assert _findings(dockerfile) == expected


def test_lint_rules_take_build_arguments_and_base_images_and_ignore_files_into_account() -> None:
    tag = {"build-arg:TAG": "latest"}
    assert _findings("ARG TAG\nFROM busybox:$TAG\n", tag) == ["InvalidDefaultArgInFrom 2"]
    arm = {"docker.io/library/arm:latest": {**BUSYBOX, "architecture": "arm64"}}
    assert _findings("FROM arm\n", images=arm) == ["InvalidBaseImagePlatform 1"]
    ignored = {".dockerignore": "a\n"}
    dockerfile = "# check=experimental=all\nFROM busybox\nCOPY a b /\nADD a /\nCOPY --from=busybox a /\n"
    assert _findings(dockerfile, files=ignored) == ["CopyIgnoredFile 3", "CopyIgnoredFile 4"]
    assert _findings(dockerfile.replace("# check=experimental=all", ""), files=ignored) == []
    skip = {"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
    assert _findings("# check=error=true\nFROM busybox\nCMD a\n", skip) == []


def test_lint_requires_that_a_comment_of_an_arg_or_a_stage_starts_with_the_described_name() -> None:
    good = "# check=experimental=all\n\n# a is this\nARG a\n# other\n\nARG b\n# c d\nFROM busybox AS c\n"
    assert _findings(good) == []
    bad = "# check=experimental=InvalidDefinitionDescription\n\n# x\nARG a=1\n# x\nARG b=1 c=2\n# x\nFROM busybox AS d\n"
    converted = build(bad)
    assert sorted(warned.short for warned in converted.warnings) == [
        "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 6)",
        "InvalidDefinitionDescription: Comment for ARG should follow the format: `# a <description>` (line 4)",
        "InvalidDefinitionDescription: Comment for FROM should follow the format: `# d <description>` (line 8)",
    ]


def test_lint_warning_contains_text_and_url_and_detail_and_source() -> None:
    converted = build("FROM busybox\nCMD a\n")
    (warned,) = converted.warnings
    text = "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals"
    assert warned.short == f"JSONArgsRecommended: {text} (line 2)"
    assert warned.url == "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/"
    assert warned.detail == (RULES["JSONArgsRecommended"].description,)
    assert warned.source.filename == "Dockerfile"
    assert warned.source.definition is not None
    ((digest, op),) = operations(warned.source.definition)
    assert (warned.vertex, op.source.identifier) == (digest, "local://dockerfile")


def test_lint_warnings_before_an_error_are_reported() -> None:
    error = failing("FROM busybox AS A\nCMD x\nCOPY --from=nope.invalid/x / /\n")
    assert [warned.rule for warned in error.warnings] == ["StageNameCasing"]
    assert failing("# check=error=true\nFROM busybox\nCMD a\n").ranges[0].start.line == 3


def _call(request: str, dockerfile: str, options: dict[str, str] | None = None) -> tuple[Any, str, dict[str, bytes]]:
    converted = build(dockerfile, {"requestid": f"frontend.{request}", **(options or {})}, images={})
    metadata = converted.result_metadata()
    assert not converted.results
    assert metadata["version"] == b"1.0.0"
    return json.loads(metadata["result.json"]), metadata["result.txt"].decode(), metadata


def test_lint_also_checks_unused_stages() -> None:
    value, text, metadata = _call("lint", "FROM busybox AS a\nCMD x\nFROM busybox\n")
    (warning,) = value["warnings"]
    assert warning["ruleName"] == "JSONArgsRecommended"
    assert warning["location"] == {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]}
    assert metadata["result.statuscode"] == b"1"
    assert text.splitlines()[1:] == [
        "WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
        "Dockerfile:2",
        "-" * 20,
        "   1 |     FROM busybox AS a",
        "   2 | >>> CMD x",
        "   3 |     FROM busybox",
        "   4 |     ",
        "-" * 20,
    ]
    assert _call("lint", "FROM busybox\n")[2]["result.statuscode"] == b"0"


def test_lint_reports_build_errors() -> None:
    value, _, metadata = _call("lint", "FROM busybox AS A\nBAD\n")
    assert value["buildError"]["message"] == "dockerfile parse error on line 2: unknown instruction: BAD (did you mean ADD?)"
    assert value["buildError"]["location"]["ranges"][0]["start"] == {"line": 2}
    assert metadata["result.statuscode"] == b"1"


def test_subrequest_outline_lists_arguments_and_secrets_and_ssh_keys_of_the_target() -> None:
    dockerfile = """# VERSION is what is built
ARG VERSION=1
ARG NAME=app-${VERSION}
ARG UNUSED=x
FROM busybox:${NAME:+latest} AS base
RUN --mount=type=secret,id=key,required --mount=type=ssh true
# final is the result
FROM base AS final
ARG DEBUG
RUN --mount=type=secret,id=last true
"""
    value, text, _ = _call("outline", dockerfile, {"build-arg:DEBUG": "yes"})
    assert (value["name"], value["description"]) == ("final", "is the result")
    assert [(arg["name"], arg.get("value"), arg.get("description")) for arg in value["args"]] == [
        ("VERSION", "1", "is what is built"),
        ("NAME", "app-1", None),
        ("DEBUG", "yes", None),
    ]
    assert value["secrets"][0] | {"location": 0} == {"name": "key", "required": True, "location": 0}
    assert value["ssh"][0]["name"] == "default"
    assert text.splitlines() == [
        "TARGET:      final",
        "DESCRIPTION: is the result",
        "",
        "BUILD ARG   VALUE   DESCRIPTION",
        "VERSION     1       is what is built",
        "NAME        app-1   ",
        "DEBUG       yes     ",
        "",
        "SECRET   REQUIRED",
        "key      true",
        "last     ",
        "",
        "SSH       REQUIRED",
        "default   ",
        "",
    ]


def test_subrequest_targets_lists_all_stages_and_marks_the_default_stage() -> None:
    value, text, _ = _call("targets", "# a is first\nFROM busybox AS a\nFROM --platform=linux/arm64 a AS b\n")
    assert value["targets"] == [
        {"name": "a", "description": "is first", "base": "busybox", "location": value["targets"][0]["location"]},
        {"name": "b", "default": True, "base": "a", "platform": "linux/arm64", "location": value["targets"][1]["location"]},
    ]
    assert text == "TARGET      DESCRIPTION\na           is first\nb (default) \n"


def test_subrequest_describe_lists_all_subrequests() -> None:
    value, text, _ = _call("subrequests.describe", "FROM busybox\n")
    assert [item["name"] for item in value] == [
        "frontend.outline",
        "frontend.targets",
        "frontend.lint",
        "frontend.subrequests.describe",
    ]
    assert text.splitlines()[3] == "lint                 1.0.0   Lint a Dockerfile"
    assert image()["os"] == "linux"
