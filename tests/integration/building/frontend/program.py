"""A BuildKit frontend: gRPC calls on standard output and input, with h2. Its Dockerfiles are JSON below the syntax line.

The program shares only the definitions of BuildKit's messages with the builder.
"""

import hashlib
import json
import os
import struct
import sys
import time

import containers
import h2.config
import h2.connection
import h2.events
from bkpb import control_pb2, gateway_pb2, ops_pb2
from google.protobuf import any_pb2  # noqa: F401 - for messages that refer to it

SERVICE = "/moby.buildkit.v1.frontend.LLBBridge/"


class CallFailed(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class Stream:
    """The data that was received for one call."""

    def __init__(self):
        self.data, self.status, self.message, self.ended = b"", "", "", False

    def messages(self):
        """The complete messages that have arrived since the last call."""
        found = []
        while len(self.data) >= 5 and len(self.data) >= (end := 5 + struct.unpack(">I", self.data[1:5])[0]):
            found.append(self.data[5:end])
            self.data = self.data[end:]
        return found

    def check(self):
        if self.status != "0":
            raise CallFailed(int(self.status or 13), self.message)


class Bridge:
    """A gRPC client. It makes unary calls one after the other, and has open streams at the same time."""

    def __init__(self):
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.initiate_connection()
        self.streams = {}
        self._flush()

    def _flush(self):
        data = self.http.data_to_send()
        while data:
            data = data[os.write(1, data) :]

    def receive(self):
        """Read once, and deliver what has arrived."""
        data = os.read(0, 65536)
        if not data:
            raise EOFError("the builder has closed the connection")
        for event in self.http.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", 0))
            if stream is None:
                continue
            if isinstance(event, h2.events.DataReceived):
                stream.data += event.data
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                given = dict(event.headers)
                stream.status = given.get("grpc-status", stream.status)
                stream.message = given.get("grpc-message", stream.message)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                stream.ended = True
        self._flush()

    def open(self, method):
        number = self.http.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", SERVICE + method), (":authority", "localhost")]
        self.http.send_headers(number, [*headers, ("content-type", "application/grpc"), ("te", "trailers")])
        self.streams[number] = Stream()
        return number

    def send(self, number, raw, end=False):
        rest = b"\0" + struct.pack(">I", len(raw)) + raw
        while rest and not self.streams[number].ended:
            size = min(len(rest), self.http.local_flow_control_window(number), self.http.max_outbound_frame_size)
            if size:
                self.http.send_data(number, rest[:size], end_stream=end and size == len(rest))
                rest = rest[size:]
            self._flush()
            if rest and not size:
                self.receive()

    def ask(self, method, request, answer):
        number = self.open(method)
        stream = self.streams[number]
        self.send(number, request.SerializeToString(), end=True)
        while not stream.ended:
            self.receive()
        del self.streams[number]
        stream.check()
        return answer.FromString(stream.messages()[0])

    def solve(self, **request):
        request = gateway_pb2.SolveRequest(allowResultReturn=True, allowResultArrayRef=True, **request)
        return self.ask("Solve", request, gateway_pb2.SolveResponse).result


class Graph:
    def __init__(self):
        self.ops = {}

    def add(self, op, *inputs):
        for digest, index in inputs:
            op.inputs.add(digest=digest, index=index)
        raw = op.SerializeToString(deterministic=True)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self.ops[digest] = raw
        return digest, 0

    def source(self, name, **attrs):
        platform = ops_pb2.Platform(OS="linux", Architecture="amd64")
        return self.add(ops_pb2.Op(source=ops_pb2.SourceOp(identifier=name, attrs=attrs), platform=platform))

    def run(self, root, script):
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        meta = ops_pb2.Meta(args=["/bin/sh", "-c", script], cwd="/", env=[path])
        mounts = [ops_pb2.Mount(input=0, dest="/", output=0)]
        return self.add(ops_pb2.Op(exec=ops_pb2.ExecOp(meta=meta, mounts=mounts)), root)

    def file(self, path, data, root=None):
        made = ops_pb2.FileActionMkFile(path=path, data=data, mode=0o644, timestamp=-1)
        action = ops_pb2.FileAction(input=-1 if root is None else 0, secondaryInput=-1, output=0, mkfile=made)
        op = ops_pb2.Op(file=ops_pb2.FileOp(actions=[action]))
        return self.add(op, *([] if root is None else [root]))

    def define(self, output):
        end = ops_pb2.Op(inputs=[ops_pb2.Input(digest=output[0], index=output[1])]).SerializeToString()
        return ops_pb2.Definition(**{"def": [*self.ops.values(), end]})


def options():
    found = {}
    for name, value in os.environ.items():
        if name.startswith("BUILDKIT_FRONTEND_OPT_"):
            key, _, text = value.partition("=")
            found[key] = text
    return found


OPTIONS = options()
IMAGE = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}, "config": {"Cmd": ["cat", "/made"]}}


def dockerfile(bridge):
    """Read the Dockerfile from the client."""
    name = OPTIONS.get("filename", "Dockerfile")
    graph = Graph()
    attrs = {"local.session": os.environ["BUILDKIT_SESSION_ID"], "local.followpaths": json.dumps([name])}
    read = bridge.solve(Definition=graph.define(graph.source("local://dockerfile", **attrs)))
    request = gateway_pb2.ReadFileRequest(Ref=read.ref.id, FilePath=name)
    text = bridge.ask("ReadFile", request, gateway_pb2.ReadFileResponse).Data.decode()
    return json.loads(text.partition("\n")[2])


def build(bridge, what):
    """Make an image of busybox with the files that a command creates."""
    graph = Graph()
    made = graph.run(graph.source("docker-image://docker.io/library/busybox:latest"), what["run"])
    result = bridge.solve(Definition=graph.define(made))
    result.metadata["containerimage.config"] = json.dumps(IMAGE).encode()
    return result


def look(bridge, what):
    """An image that contains the answers to the bridge's calls."""
    graph = Graph()
    made = graph.run(graph.source("docker-image://docker.io/library/busybox:latest"), what["run"])
    ref = bridge.solve(Definition=graph.define(made), Evaluate=True).ref.id
    said = []
    pong = bridge.ask("Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)
    said.append(["workers", len(pong.Workers), "exec.mount.bind" in {cap.ID for cap in pong.LLBCaps if cap.Enabled}])
    said.append(["environment", len(json.loads(os.environ["BUILDKIT_WORKERS"])), OPTIONS.get("build-arg:X")])
    found = bridge.ask("ReadDir", gateway_pb2.ReadDirRequest(Ref=ref, DirPath="/dir"), gateway_pb2.ReadDirResponse)
    said.append(["directory", [[each.path, each.mode, each.uid, each.size] for each in found.entries]])
    request = gateway_pb2.ReadDirRequest(Ref=ref, DirPath="/dir", IncludePattern="*.txt")
    said.append(["pattern", [each.path for each in bridge.ask("ReadDir", request, gateway_pb2.ReadDirResponse).entries]])
    request = gateway_pb2.StatFileRequest(Ref=ref, Path="/dir/link")
    stat = bridge.ask("StatFile", request, gateway_pb2.StatFileResponse).stat
    said.append(["link", stat.path, stat.mode, stat.linkname])
    request = gateway_pb2.ReadFileRequest(Ref=ref, FilePath="/dir/a.txt", Range=gateway_pb2.FileRange(Offset=2, Length=3))
    said.append(["range", bridge.ask("ReadFile", request, gateway_pb2.ReadFileResponse).Data.decode()])
    for method, request, answer in (
        ("ReadFile", gateway_pb2.ReadFileRequest(Ref=ref, FilePath="/none"), gateway_pb2.ReadFileResponse),
        ("StatFile", gateway_pb2.StatFileRequest(Ref="none", Path="/"), gateway_pb2.StatFileResponse),
    ):
        try:
            bridge.ask(method, request, answer)
        except CallFailed:
            said.append([method, "fails"])
    request = gateway_pb2.ResolveImageConfigRequest(Ref="docker.io/library/busybox:latest", ResolveMode="default")
    config = json.loads(bridge.ask("ResolveImageConfig", request, gateway_pb2.ResolveImageConfigResponse).Config)
    said.append(["config", config["architecture"], config["os"], config["config"].get("Cmd")])
    source = ops_pb2.SourceOp(identifier="docker-image://docker.io/library/busybox:latest")
    request = gateway_pb2.ResolveSourceMetaRequest(Source=source)
    meta = bridge.ask("ResolveSourceMeta", request, gateway_pb2.ResolveSourceMetaResponse)
    said.append(["source", json.loads(meta.Image.Config) == config])
    bridge.ask("Evaluate", gateway_pb2.EvaluateRequest(Ref=ref), gateway_pb2.EvaluateResponse)
    warning = gateway_pb2.WarnRequest(digest=made[0], level=1, short=b"a warning of the frontend", url="https://example.com")
    bridge.ask("Warn", warning, gateway_pb2.WarnResponse)
    graph = Graph()
    result = bridge.solve(Definition=graph.define(graph.file("/made", json.dumps(said, indent=1).encode())))
    result.metadata["containerimage.config"] = json.dumps(IMAGE).encode()
    return result


def platforms(bridge, what):
    """A result with a value for each platform."""
    result = gateway_pb2.Result()
    for platform in what["platforms"]:
        graph = Graph()
        made = bridge.solve(Definition=graph.define(graph.file("/made", platform.encode())))
        result.refs.refs[platform].id = made.ref.id
    named = [(each, dict(zip(("os", "architecture"), each.split("/"), strict=True))) for each in what["platforms"]]
    system = [{"ID": name, "Platform": platform} for name, platform in named]
    result.metadata["refs.platforms"] = json.dumps({"Platforms": system}).encode()
    return result


def forward(bridge, what):
    """Let another frontend build another Dockerfile."""
    given = {key: value for key, value in OPTIONS.items() if key not in ("source", "cmdline")}
    return bridge.solve(Frontend=what["to"], FrontendOpt={**given, **what["options"]})


def collect(bridge, what):
    """Let another frontend build for several platforms, and make one image of all results."""
    given = {key: value for key, value in OPTIONS.items() if key not in ("source", "cmdline")}
    found = bridge.solve(Frontend="dockerfile.v0", FrontendOpt={**given, **what["options"]})
    said = {}
    for platform, ref in found.refs.refs.items():
        request = gateway_pb2.ReadFileRequest(Ref=ref.id, FilePath="/made")
        said[platform] = bridge.ask("ReadFile", request, gateway_pb2.ReadFileResponse).Data.decode()
    graph = Graph()
    made = graph.file("/made", json.dumps([said, sorted(found.metadata)], sort_keys=True).encode())
    result = bridge.solve(Definition=graph.define(made))
    result.metadata["containerimage.config"] = json.dumps(IMAGE).encode()
    return result


def inputs(bridge, what):
    """Build on a graph that the client has given (targets of bake)."""
    found = bridge.ask("Inputs", gateway_pb2.InputsRequest(), gateway_pb2.InputsResponse).Definitions
    kind, _, name = OPTIONS["context:base"].partition(":")
    assert kind == "input", OPTIONS
    result = bridge.solve(Definition=found[name])
    result.metadata["containerimage.config"] = json.dumps(IMAGE).encode()
    return result


def contain(bridge, what):
    """Make an image that contains the results of operations on containers (see `containers`)."""
    said = containers.carry_out(bridge, what["steps"], Graph)
    graph = Graph()
    result = bridge.solve(Definition=graph.define(graph.file("/made", json.dumps(said, indent=1).encode())))
    result.metadata["containerimage.config"] = json.dumps(IMAGE).encode()
    return result


def fail(bridge, what):
    request = gateway_pb2.ReturnRequest()
    request.error.code, request.error.message = what.get("code", 2), what["message"]
    bridge.ask("Return", request, gateway_pb2.ReturnResponse)
    sys.exit(what.get("exit", 1))


def broken(bridge, what):
    kind = what["how"]
    if kind == "exit":
        print("the frontend's own words", file=sys.stderr)
        sys.exit(3)
    if kind == "silent":
        sys.exit(0)
    if kind == "garbage":
        os.write(1, b"this is not HTTP/2\n" * 1000)
        time.sleep(what.get("sleep", 60))
    if kind == "recursion":
        return bridge.solve(Frontend="gateway.v0", FrontendOpt=OPTIONS)
    if kind == "hang":
        print("hanging", file=sys.stderr, flush=True)
        time.sleep(31340)
    if kind == "linger":
        result = build(bridge, {"run": "echo lingered > /made"})
        bridge.ask("Return", gateway_pb2.ReturnRequest(result=result), gateway_pb2.ReturnResponse)
        time.sleep(31341)
    raise SystemExit(f"no such way: {kind}")


def main():
    bridge = Bridge()
    what = dockerfile(bridge)
    result = globals()[what["do"]](bridge, what)
    for key, value in what.get("metadata", {}).items():
        result.metadata[key] = value.encode()
    bridge.ask("Return", gateway_pb2.ReturnRequest(result=result), gateway_pb2.ReturnResponse)


if __name__ == "__main__":
    assert control_pb2
    try:
        main()
    except CallFailed as error:
        print(f"the call failed: {error.message}", file=sys.stderr)
        sys.exit(4)
