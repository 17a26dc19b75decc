"""Containers of the frontend. A Dockerfile lists the operations on the containers, which are carried out in order.

   {"new": ID, "mounts": [...], "network": 0, ...}     NewContainer; a mount with "run" has the files of a command
   {"start": PROCESS, "container": ID, "args": [...]}  starts a process; also "fds", "tty", "env", "user", "cwd", ...
   {"input": PROCESS, "text": TEXT, "end": true}       {"resize": PROCESS, "rows": 5, "cols": 7}
   {"signal": PROCESS, "name": "HUP"}                  {"release": ID}
   {"expect": PROCESS, "text": TEXT}                   waits for output
   {"wait": PROCESS, "close": true}                    waits for the end; ends the input after it
   {"say": TEXT}                                       writes to standard error
   {"hold": SECONDS}                                   reads nothing

Each operation except "input" adds a part to the result.
"""

import sys
import time

from bkpb import gateway_pb2, ops_pb2


class Process:
    def __init__(self):
        self.out = {1: b"", 2: b""}
        self.started = self.done = False
        self.ended = []
        self.exit = None

    def take(self, message):
        kind = message.WhichOneof("Input")
        if kind == "Started":
            self.started = True
        elif kind == "File":
            self.out[message.File.Fd] += message.File.Data
            if message.File.EOF:
                self.ended.append(message.File.Fd)
        elif kind == "Exit":
            self.exit = [message.Exit.Code, message.Exit.Error.message]
        elif kind == "Done":
            self.done = True


class Processes:
    """One stream of `ExecProcess`."""

    def __init__(self, bridge):
        self.bridge, self.number = bridge, bridge.open("ExecProcess")
        self.stream = bridge.streams[self.number]
        self.found = {}

    def send(self, name, **content):
        self.bridge.send(self.number, gateway_pb2.ExecMessage(ProcessID=name, **content).SerializeToString())

    def take(self):
        for raw in self.stream.messages():
            message = gateway_pb2.ExecMessage.FromString(raw)
            self.found[message.ProcessID].take(message)

    def wait(self, name, condition):
        self.take()
        while not condition(self.found[name]):
            if self.stream.ended:
                self.stream.check()
                raise EOFError(f"no end of {name}")
            self.bridge.receive()
            self.take()
        return self.found[name]


def mounts(bridge, given, graph):
    made = []
    for mount in given:
        mount = dict(mount)
        if "run" in mount:
            own = graph()
            root = own.source("docker-image://docker.io/library/busybox:latest")
            script = mount.pop("run")
            output = own.run(root, script) if script else root
            mount["resultID"] = bridge.solve(Definition=own.define(output)).ref.id
        made.append(ops_pb2.Mount(**mount))
    return made


def carry_out(bridge, steps, graph):
    state = {"processes": None}
    said = []
    for step in steps:
        try:
            found = one(bridge, step, graph, state)
        except Exception as error:
            if not hasattr(error, "code"):
                raise
            found = {"error": error.code, "message": error.message}
            if state["processes"] is not None and state["processes"].stream.ended:
                state["processes"] = None
        if found is not None:
            said.append(found)
    return said


def one(bridge, step, graph, state):
    if "new" in step:
        request = gateway_pb2.NewContainerRequest(
            ContainerID=step["new"],
            Mounts=mounts(bridge, step.get("mounts", [{"dest": "/", "run": ""}]), graph),
            Network=step.get("network", 0),
            hostname=step.get("hostname", ""),
            extraHosts=[ops_pb2.HostIP(Host=name, IP=ip) for name, ip in step.get("hosts", [])],
        )
        bridge.ask("NewContainer", request, gateway_pb2.NewContainerResponse)
        return {"new": step["new"]}
    if "release" in step:
        request = gateway_pb2.ReleaseContainerRequest(ContainerID=step["release"])
        bridge.ask("ReleaseContainer", request, gateway_pb2.ReleaseContainerResponse)
        return {"release": step["release"]}
    if "say" in step:
        print(step["say"], file=sys.stderr, flush=True)
        return None
    if "hold" in step:
        time.sleep(step["hold"])
        return None
    if state["processes"] is None:
        state["processes"] = Processes(bridge)
    return process(state["processes"], step)


def process(processes, step):
    if "start" in step:
        processes.found[step["start"]] = Process()
        meta = ops_pb2.Meta(args=step["args"], env=step.get("env", []), cwd=step.get("cwd", ""), user=step.get("user", ""))
        init = gateway_pb2.InitMessage(
            ContainerID=step["container"],
            Meta=meta,
            Fds=step.get("fds", [1, 2]),
            Tty=step.get("tty", False),
            Security=step.get("security", 0),
            secretenv=[ops_pb2.SecretEnv(**each) for each in step.get("secretenv", [])],
        )
        processes.send(step["start"], Init=init)
        if step.get("started", True):
            processes.wait(step["start"], lambda found: found.started)
    elif "input" in step:
        data = step.get("text", "").encode() * step.get("times", 1)
        for at in range(0, len(data), 1 << 16):
            processes.send(step["input"], File=gateway_pb2.FdMessage(Fd=0, Data=data[at : at + (1 << 16)]))
        if step.get("end"):
            processes.send(step["input"], File=gateway_pb2.FdMessage(Fd=0, EOF=True))
    elif "resize" in step:
        processes.send(step["resize"], Resize=gateway_pb2.ResizeMessage(Rows=step["rows"], Cols=step["cols"]))
    elif "signal" in step:
        processes.send(step["signal"], Signal=gateway_pb2.SignalMessage(Name=step["name"]))
    elif "expect" in step:
        wanted = step["text"].encode()
        processes.wait(step["expect"], lambda found: found.done or wanted in found.out[1] + found.out[2])
    elif "wait" in step:
        processes.wait(step["wait"], lambda found: found.exit)
        if step.get("close"):  # BuildKit sends Done only after the end of the input
            processes.send(step["wait"], File=gateway_pb2.FdMessage(Fd=0, EOF=True))
        found = processes.wait(step["wait"], lambda found: found.done)
        out, err = (found.out[number].decode() for number in (1, 2))
        if step.get("count"):
            out = len(out)
        return {"process": step["wait"], "out": out, "err": err, "exit": found.exit, "eof": sorted(found.ended)}
    else:
        raise SystemExit(f"no such step: {step}")
    return None
