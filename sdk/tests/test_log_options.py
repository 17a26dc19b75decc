"""Log options, extra attributes and tags: values and error messages match dockerd's."""

from __future__ import annotations

import pytest

from orlop_sdk import InvalidParameter, LogInfo
from orlop_sdk.logfiles import FILE_AND_ATTRIBUTE_OPTIONS, FileOptions, check_options, extra_attributes, file_options

DEFAULT = FileOptions()
INFO = LogInfo(
    container_id="0123456789abcdef" * 4,
    container_name="/web",
    image_id="sha256:fedcba9876543210",
    image_name="example/web:1",
    command="serve --fast",
    created="2024-01-01T00:00:00Z",
    directory="",
    labels={"role": "web", "tier.name": "front", "x<y": "1&2"},
    env=("MODE=prod", "EMPTY=", "EQUAL=a=b", "UNSET"),
    hostname="machine",
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10", 10),
        ("10b", 10),
        ("10k", 10_000),
        ("10m", 10_000_000),
        ("10M", 10_000_000),
        ("10MB", 10_000_000),
        ("10MiB", 10_000_000),
        ("1.5k", 1500),
        ("2 g", 2_000_000_000),
        ("1t", 10**12),
    ],
)
def test_max_size_is_parsed_in_decimal_units(text: str, size: int) -> None:
    assert file_options({"max-size": text}, DEFAULT).max_size == size


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"max-size": "foo"}, "invalid size: 'foo'"),
        ({"max-size": "-1"}, "invalid size: '-1'"),
        ({"max-size": "10x"}, "invalid size: '10x'"),
        ({"max-size": "10mbb"}, "invalid size"),
        ({"max-size": ""}, "invalid size"),
        ({"max-size": "0"}, "max-size must be a positive number"),
        ({"max-file": "0"}, "max-file cannot be less than 1"),
        ({"max-file": "a"}, 'strconv.Atoi: parsing "a": invalid syntax'),
        ({"compress": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
        ({"compress": "true"}, "compress cannot be true when max-file is less than 2 or max-size is not set"),
        ({"compress": "true", "max-size": "1m"}, "compress cannot be true"),
        ({"compress": "true", "max-file": "2"}, "compress cannot be true"),
    ],
)
def test_invalid_options_of_log_files_are_refused(options: dict[str, str], cause: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        file_options(options, DEFAULT)
    assert cause in str(caught.value)
    assert str(caught.value).startswith("cannot use log option ")


def test_log_file_options_override_the_defaults_of_the_driver() -> None:
    default = FileOptions(max_size=20 << 20, max_files=5, compress=True)
    assert file_options({}, default) == default
    assert file_options({"max-file": "1"}, default) == FileOptions(20 << 20, 1, False)
    assert file_options({"compress": "F"}, default) == FileOptions(20 << 20, 5, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foo": "bar"}, "unknown log opt 'foo' for json-file log driver"),
        ({"mode": "zz"}, "logger: logging mode not supported: zz"),
        ({"max-buffer-size": "1m"}, "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
        ({"mode": "non-blocking", "max-buffer-size": "x"}, "cannot use log option max-buffer-size=x: invalid size: 'x'"),
        ({"cache-disabled": "x"}, 'cannot use log option cache-disabled=x: strconv.ParseBool: parsing "x": invalid syntax'),
        ({"tag": "{{.ID"}, "cannot parse log tag {{.ID: unclosed action"),
        ({"tag": "{{.Nope}}"}, "cannot parse log tag {{.Nope}}: can't evaluate field Nope"),
        ({"tag": "{{foo}}"}, 'cannot parse log tag {{foo}}: function "foo" not defined'),
        ({"tag": "{{if .ID}}x{{end}}"}, 'cannot parse log tag {{if .ID}}: function "if" not defined'),
        (
            {"tag": "{{index .Config}}"},
            "cannot parse log tag {{index .Config}}: wrong number of args for index: want 2 got 1",
        ),
        ({"tag": "{{(.ID}}"}, "cannot parse log tag {{(.ID}}: unclosed left paren"),
        ({"tag": "{{}}"}, "cannot parse log tag {{}}: missing value for command"),
    ],
)
def test_invalid_options_are_refused_with_dockerds_message(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_options("json-file", options, FILE_AND_ATTRIBUTE_OPTIONS)
    assert str(caught.value) == message


def test_invalid_regular_expression_is_refused() -> None:
    with pytest.raises(InvalidParameter, match=r"^cannot use log option env-regex=\(: error parsing regexp: "):
        check_options("json-file", {"env-regex": "("}, FILE_AND_ATTRIBUTE_OPTIONS)


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, {}),
        ({"labels": "role,nothing"}, {"role": "web"}),
        ({"labels": "role,x<y"}, {"role": "web", "x<y": "1&2"}),
        ({"labels-regex": "^(role|tier)"}, {"role": "web", "tier.name": "front"}),
        ({"env": "MODE,EQUAL,UNSET,EMPTY"}, {"MODE": "prod", "EQUAL": "a=b", "EMPTY": ""}),
        ({"env-regex": r"E\z"}, {"MODE": "prod"}),
        ({"labels": "role", "env": "MODE", "tag": "t"}, {"role": "web", "MODE": "prod", "tag": "t"}),
        ({"tag": ""}, {}),
    ],
)
def test_labels_and_variables_become_attributes(options: dict[str, str], attributes: dict[str, str]) -> None:
    found = extra_attributes(INFO, options)
    assert found == attributes
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "0123456789ab"),
        ("{{.FullID}}", INFO.container_id),
        ("{{.ImageName}}/{{.Name}}/{{.ID}}", "example/web:1/web/0123456789ab"),
        ("{{.ImageID}} {{.ImageFullID}}", "sha256:fedcb sha256:fedcba9876543210"),
        ("{{.Command}}@{{.Hostname}} by {{.DaemonName}}", "serve --fast@machine by orlop"),
        ("{{.ContainerName}}", "/web"),
        ("{{.ContainerCreated}}", "2024-01-01T00:00:00Z"),
        ('{{index .ContainerLabels "role"}}', "web"),
        ("{{index .ContainerLabels `tier.name`}}", "front"),
        ('{{index .ContainerLabels "none"}}.', "."),
        ("{{index .ContainerEnv 0}}", "MODE=prod"),
        ("{{.Name | upper}}", "WEB"),
        ("{{upper .Name | lower | title}}", "Web"),
        ("{{(.ExtraAttributes nil).role}}", "web"),
        ("{{.Config.labels}}", "role"),
        ('{{printf "%s-%d%%" .Name 5}}', "web-5%"),
        ('{{join (split .ImageName "/") "_"}}', "example_web:1"),
        ("{{truncate .FullID 4}}", "0123"),
        ("{{pad .Name 1 2}}|", " web  |"),
        ("{{json .Name}}", '"web"'),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* a comment */}}x", "x"),
        ("{{print .Config}}", "map[labels:role tag:{{print .Config}}]"),
    ],
)
def test_tag_template_is_expanded(tag: str, text: str) -> None:
    assert extra_attributes(INFO, {"labels": "role", "tag": tag})["tag"] == text
