"""Go templates: supported features behave as in Go, others are refused with a message."""

from __future__ import annotations

import pytest

from orlop_cli._errors import CliError
from orlop_cli.commands.ps import COLUMNS, HEADERS, Container
from orlop_cli.tables import format as format_module
from orlop_cli.tables.format import render_rows
from orlop_cli.tables.template import Template
from orlop_cli.values import times

WEB = {
    "Name": "/web",
    "State": {"Status": "running", "Pid": 42, "Running": True, "Error": "", "Load": 1.5},
    "Config": {"Labels": {"app": "shop", "tier": "front"}, "Env": ["A=1", "B=2"], "Cmd": None},
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": None}},
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{.State.Status}}", "running"),
        ("{{ .State.Pid }}{{/* nothing */}}", "42"),
        ("{{json .Config.Labels}}", '{"app":"shop","tier":"front"}'),
        ("{{json .State.Error}}", '""'),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[app:shop tier:front]"),
        ("{{.Config.Cmd}} {{.State.Running}} {{.State.Load}}", "<no value> true 1.5"),
        ('{{index .Config.Labels "app"}}', "shop"),
        ('[{{index .Config.Labels "none"}}]', "[]"),
        ("{{.Config.Labels.none}}", "<no value>"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
        ("{{range .Config.Env}}{{.}};{{end}}", "A=1;B=2;"),
        ("{{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{$i}}={{$e}}{{end}}", "0=A=1, 1=B=2"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}} {{end}}", "app:shop tier:front "),
        ("{{range .Config.Cmd}}x{{else}}empty{{end}}", "empty"),
        ("{{range .Config.Env}}{{.}}{{break}}{{end}}", "A=1"),
        ("{{range .Config.Env}}{{if eq . `A=1`}}{{continue}}{{end}}{{.}}{{end}}", "B=2"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Error}}a{{else if gt .State.Pid 100}}b{{else}}c{{end}}", "c"),
        ("{{with .Config.Labels}}{{.app}}{{end}}", "shop"),
        ("{{with $x := .State.Pid}}{{$x}}{{end}}", "42"),
        ("{{with .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range .Config.Env}}{{$.Name}}{{end}}", "/web/web"),
        ("{{$n := .Name}}{{$n = `other`}}{{$n}}", "other"),
        ("{{len .Config.Env}} {{len .Name}} {{len .Config.Cmd}}", "2 4 0"),
        ("{{upper .State.Status}} {{.State.Status | title | lower}}", "RUNNING running"),
        ('{{join .Config.Env ","}} {{split .Name "e"}}', "A=1,B=2 [/w b]"),
        ('{{join (split "a:b" ":") "-"}}', "a-b"),
        ("{{pad .State.Status 1 2}}|{{truncate .State.Status 3}}", " running  |run"),
        (
            '{{printf "%-8s|%5d|%q|%.1f|%v|%%" .State.Status .State.Pid .Name .State.Load .Config.Env}}',
            'running |   42|"/web"|1.5|[A=1 B=2]|%',
        ),
        ("{{println .State.Pid}}", "42\n"),
        ('{{print "a" 1 2 "b"}}', "a1 2b"),
        ("{{and .State.Running .State.Pid}} {{or .State.Error `none`}} {{not .State.Running}}", "42 none false"),
        (
            "{{eq .State.Status `x` `running`}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt 1 2}} {{ge 2 2}}",
            "true true true true false true",
        ),
        ("{{slice .State.Status 0 3}}", "run"),
        ("a {{- ` b ` -}} c", "a b c"),
        (r'{{"tab\there é \""}}', 'tab\there é "'),
        ('{{"}}"}}', "}}"),
        ("no actions", "no actions"),
    ],
)
def test_templates_render_like_go(source: str, expected: str) -> None:
    assert Template(source).render(WEB) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Nope}}", 'executing "" at <.Nope>: map has no entry for key "Nope"'),
        ("{{.State.Health.Status}}", 'at <.State.Health>: map has no entry for key "Health"'),
        ("{{.Name.X}}", "can't evaluate field X in type string"),
        ("{{.Config.Cmd.X}}", "nil data"),
        ("{{foo .}}", 'function "foo" not defined'),
        ("{{template `x`}}", 'template "x" not defined'),
        ("{{define `x`}}", "unexpected end of the template in define clause"),
        ("{{define `x`}}{{template `x`}}{{end}}{{template `x`}}", "exceeded maximum template depth"),
        ("{{nil}}", "nil is not a command"),
        ("{{'ab'}}", "unexpected"),
        ("{{.Name", "unclosed action"),
        ("{{if .Name}}x", "unexpected end of the template in {{if}}"),
        ("x{{end}}", "unexpected {{end}}"),
        ("{{}}", "missing value for command"),
        ("{{.Name | }}", "missing value for command"),
        ("{{(.Name}}", "unclosed left paren"),
        ("{{$x}}", 'undefined variable "$x"'),
        ("{{break}}", "outside"),
        ("{{range .State.Running}}{{end}}", "range can't iterate over true"),
        ("{{index .Config.Env 7}}", "index out of range: 7"),
        ("{{index .Config.Cmd 0}}", "index of untyped nil"),
        ("{{eq .Name 1}}", "incompatible types"),
        ("{{len .State.Pid}}", "len of type int"),
        ("{{upper}}", "wrong number or type of arguments for upper"),
        ("{{.Name .Name}}", "can't give argument to non-function .Name"),
        ("{{.Name | 3}}", "non executable command in pipeline"),
        ("{{&}}", "unexpected '&'"),
    ],
)
def test_template_errors_contain_the_cause(source: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        Template(source).render(WEB)
    assert caught.value.message.startswith("template parsing error: ")
    assert message in caught.value.message


ITEM = {
    "Id": "0123456789abcdef" * 4,
    "Names": ["/web", "/other/alias"],
    "Image": "nginx:1",
    "ImageID": "sha256:" + "f" * 64,
    "Command": 'nginx -g "daemon off;" and more',
    "Created": 1_700_000_000,
    "Ports": [],
    "Labels": {"b": "2", "a": "1"},
    "State": "running",
    "Status": "Up 3 minutes (healthy)",
    "Mounts": [{"Type": "volume", "Name": "a-very-long-volume-name", "Driver": "local"}, {"Type": "bind", "Source": "/srv"}],
    "NetworkSettings": {"Networks": {"front": {}, "back": {}}},
    "SizeRw": 1234567,
    "SizeRootFs": 21_500_000,
}


def rendered(form: str | None, trunc: bool = True) -> str:
    return render_rows([Container(ITEM, trunc)], COLUMNS, HEADERS, form)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("{{.ID}}\\t{{.Names}}", "0123456789ab\tweb\n"),
        ("{{.Command}}", '"nginx -g \\"daemon of…"\n'),
        ('{{.Labels}} {{.Label "a"}}|{{.Label "x"}}|', "a=1,b=2 1||\n"),
        ("{{.Mounts}} {{.LocalVolumes}} {{.Networks}}", "a-very-long-vo…,/srv 1 back,front\n"),
        ("{{.Size}} {{.HealthStatus}}", "1.23MB (virtual 21.5MB) healthy\n"),
        ('table {{.ID}}\\t{{.Label "a"}}', "CONTAINER ID   a\n0123456789ab   1\n"),
        ("table {{.Names}} {{upper .State}}\\t{{.Image}}", "NAMES STATE   IMAGE\nweb RUNNING   nginx:1\n"),
    ],
)
def test_placeholders_in_a_format_are_filled_with_the_containers_values(form: str, expected: str) -> None:
    assert rendered(form) == expected


def test_names_column_without_truncation_includes_link_names() -> None:
    assert rendered("{{.Names}} {{.ID}}", trunc=False) == f"web,other/alias {ITEM['Id']}\n"


def test_json_rows_contain_every_placeholder() -> None:
    import json

    assert sorted(json.loads(rendered("json"))) == sorted(Container.FIELDS)


def test_error_about_an_unknown_placeholder_contains_the_known_placeholders() -> None:
    with pytest.raises(CliError, match=r"can't evaluate field Nope.*\.Names"):
        rendered("{{.Nope}}")


CONTAINER = {
    "Id": "ab",
    "State": {"Status": "running", "Running": True},
    "HostConfig": {"NanoCpus": 5, "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "Init": None},
    "Config": {
        "Labels": {"a": "b"},
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": ["NONE"], "Interval": 90 * 10**9},
    },
    "Mounts": [{"Type": "bind", "RW": True}],
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{.State.Health}}|{{if .State.Health}}x{{end}}", "<nil>|"),
        ("{{.ID}} {{.Id}} {{.SizeRw}} {{.RestartCount}}", "ab ab <nil> 0"),
        ("{{.State}}", "{running true false false false false 0 0    <nil>}"),
        ("{{.HostConfig.NanoCPUs}} {{.HostConfig.Memory}} {{.HostConfig.DNS}} {{.HostConfig.Sysctls}}", "5 0 [] map[]"),
        ("{{.HostConfig.PortBindings}} {{.HostConfig.Init}}", "map[80/tcp:[{ 8080}]] <nil>"),
        ("{{.Config.ExposedPorts}} {{.Config.Healthcheck}}", "map[80/tcp:{}] {[NONE] 1m30s 0s 0s 0s 0}"),
        ("{{.Config.Labels.nope}} {{.Config.Labels}} {{.Mounts}}", "<no value> map[a:b] [{bind      true }]"),
        ("{{define `x`}}<{{.}}>{{end}}{{template `x` .ID}}{{block `y` .State}}{{.Status}}{{end}}", "<ab>running"),
        ("{{html `<a>&\"`}} {{js `a'b<`}} {{urlquery `a b&c/é`}}", "&lt;a&gt;&amp;&#34; a\\'b\\u003C a+b%26c%2F%C3%A9"),
        (r"{{'a'}} {{'\n'}} {{'\x41'}} {{1e3}} {{0x10}}", "97 10 65 1000 16"),
    ],
)
def test_template_values_have_the_same_types_as_in_dockers_client(source: str, expected: str) -> None:
    assert format_module.render_values([CONTAINER], source) == f"{expected}\n"


@pytest.mark.parametrize(
    ("source", "code"), [("{{.Nope}}", 1), ("{{.State.Health.Status}}", 1), ("{{.Id", 64), ("{{f}}", 64)]
)
def test_template_errors_have_dockers_exit_codes(source: str, code: int) -> None:
    with pytest.raises(CliError) as raised:
        format_module.render_values([CONTAINER], source)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (10**8, "100ms"),
        (90 * 10**9, "1m30s"),
        (3_600_500_000_000, "1h0m0.5s"),
        (-5, "-5ns"),
    ],
)
def test_durations_are_printed_as_in_go(nanoseconds: int, text: str) -> None:
    assert times.go_duration(nanoseconds) == text
