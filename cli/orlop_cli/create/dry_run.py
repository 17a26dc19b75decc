"""`run --dry-run` and `create --dry-run`: show what the daemon would make."""

from __future__ import annotations

from orlop_cli._command import fail
from orlop_cli._errors import ApiError, CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from orlop_cli.daemon.client import Engine

    Json = dict[str, Any]

__all__ = ["show", "text", "wanted"]


def wanted(options: Json) -> bool:
    """Whether the user wants a dry run. Raises UsageProblem for a wrong `--format`."""
    if options["form"] is not None and not options["dry_run"]:
        fail("--format needs --dry-run")
    if options["form"] not in (None, "json"):
        fail(f'"{options["form"]}" is not a valid value for --format: only json is')
    return bool(options["dry_run"])


def show(engine: Engine, options: Json, image: str, words: Sequence[str], detach: bool = False) -> bool:
    """Print the plan. Returns whether it has problems."""
    plan = _ask(engine, options, image, words, detach)
    plan["Image"]["Pull"] = options["pull"] == "always" or (options["pull"] == "missing" and not plan["Image"]["Id"])
    if options["pull"] == "never" and not plan["Image"]["Id"]:
        plan["Problems"].insert(0, f"No such image: {image}")
    if options["form"] == "json":
        from orlop_cli.values import jsontext

        print(jsontext.indented(plan))
    else:
        print(text(plan), end="")
    return bool(plan["Problems"])


def _ask(engine: Engine, options: Json, image: str, words: Sequence[str], detach: bool) -> Json:
    from orlop_cli.create.container import request

    query, document = request(engine, options, image, words, detach)
    try:
        return dict(engine.post("/orlop/containers/plan", query, document))
    except ApiError as error:
        if error.status == 404 and "page not found" in error.text:
            raise CliError(f"the daemon at {engine.address.text} has no --dry-run: it is not orlopd", 125) from None
        raise


def text(plan: Json) -> str:
    """The plan as text: a title for each section, and indented lines."""
    sections = [("Image", [_image(plan)]), ("Name", [plan["Name"]])]
    if plan["Spec"]:
        sections += _of_spec(plan["Spec"], plan)
    sections += [
        ("Volumes that would be created", [_volume(each) for each in plan["Volumes"]]),
        ("Directories that would be created", plan["Directories"]),
        ("Network", _networks(plan)),
        ("Published ports", [_port(each) for each in plan["Ports"]]),
        ("Log driver", [" ".join([plan["Log"]["Driver"], *_pairs(plan["Log"]["Options"])])]),
        ("Restart policy", [_restart(plan["RestartPolicy"])]),
        ("Runtime", [plan["Runtime"]]),
        ("Placeholders", [f"{key}: {meaning}" for key, meaning in plan["Placeholders"].items()]),
        ("Warnings", plan["Warnings"]),
        ("Problems", plan["Problems"] or ["none"]),
    ]
    shown = [title + "".join(f"\n  {line}" for line in lines) for title, lines in sections if lines]
    return "\n".join(shown) + "\nNothing was created.\n"


def _image(plan: Json) -> str:
    image = plan["Image"]
    present = image["Id"] or "not present, so the values that the image sets are unknown"
    return f"{image['Reference']} ({present})" + ("; would be pulled" if image["Pull"] else "")


def _of_spec(spec: Json, plan: Json) -> list[tuple[str, list[str]]]:
    process, linux = spec["process"], spec["linux"]
    return [
        ("Process", [_command(process["args"]), f"working directory {process['cwd']}", *_terminal(process)]),
        ("User", [_user(plan["User"])]),
        ("Environment", process["env"]),
        ("Mounts", [_mount(each) for each in spec["mounts"]]),
        ("Root file system", ["read-only" if spec["root"]["readonly"] else "writable"]),
        ("Limits", _limits(linux.get("resources", {})) + _rlimits(process) or ["none"]),
        ("Capabilities", [" ".join(each.removeprefix("CAP_") for each in process["capabilities"]["bounding"]) or "none"]),
        ("Security", _security(process, linux)),
        ("Namespaces", [" ".join(_namespace(each) for each in linux["namespaces"])]),
    ]


def _command(args: Sequence[str]) -> str:
    from orlop_cli.explain.report import shell_word

    return " ".join(shell_word(each) for each in args)


def _terminal(process: Json) -> list[str]:
    return ["with a terminal"] if process.get("terminal") else []


def _user(user: Json) -> str:
    given = user["Given"] or "not set (root)"
    return given if user["Uid"] is None else f"{given}: uid {user['Uid']}, gid {user['Gid']}"


def _mount(mount: Json) -> str:
    return f"{mount['source']} -> {mount['destination']} ({mount['type']}: {','.join(mount['options'])})"


def _volume(volume: Json) -> str:
    return f"{volume['Name']} (driver {volume['Driver']}) for {volume['Target']}"


def _pairs(values: Json) -> list[str]:
    return [f"{key}={value}" for key, value in sorted(values.items())]


def _limits(resources: Json) -> list[str]:
    """The figures of the spec, such as `memory.limit 268435456`."""
    found = []
    for group in ("memory", "cpu", "pids", "blockIO"):
        for key, value in sorted(resources.get(group, {}).items()):
            found.append(f"{group}.{key} {value}")
    return found


def _rlimits(process: Json) -> list[str]:
    return [f"{each['type']} {each['soft']}:{each['hard']}" for each in process.get("rlimits", ())]


def _security(process: Json, linux: Json) -> list[str]:
    seccomp = linux.get("seccomp")
    return [
        f"seccomp: {'default action ' + seccomp['defaultAction'] if seccomp else 'unconfined'}",
        f"AppArmor: {process.get('apparmorProfile', 'no profile')}",
        f"no-new-privileges: {'yes' if process['noNewPrivileges'] else 'no'}",
    ]


def _namespace(namespace: Json) -> str:
    return f"{namespace['type']}={namespace['path']}" if namespace.get("path") else str(namespace["type"])


def _networks(plan: Json) -> list[str]:
    if not plan["Networks"]:
        return [f"mode {plan['NetworkMode']}"]
    return [_network(each) for each in plan["Networks"]]


def _network(network: Json) -> str:
    families = " and ".join(network["Families"]) or "no addresses"
    subnets = f" ({', '.join(network['Subnets'])})" if network["Subnets"] else ""
    route = ", default route" if network["DefaultRoute"] else ""
    return f"{network['Name']} (driver {network['Driver']}): {network['Interface']}, {families}{subnets}{route}"


def _port(port: Json) -> str:
    host = f"[{port['HostIP']}]" if ":" in port["HostIP"] else port["HostIP"]
    return f"{host}:{port['HostPort'] or '(free port)'} -> {port['ContainerPort']}/{port['Protocol']}: {port['Rule']}"


def _restart(policy: Json) -> str:
    count = policy["MaximumRetryCount"]
    return f"{policy['Name']}:{count}" if count else str(policy["Name"])
