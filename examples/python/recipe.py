#!/usr/bin/env python3
"""A model for Starling in one file of Python: recipes that every device may write.

    apt install python3-grpcio python3-protobuf python3-msgpack python3-cryptography
    starling plugin verify ./recipe.py --record '{"name":"soup"}' --record '{"name":"bread"}'
    starling demo --plugin ./recipe.py --put '{"name":"soup","minutes":40}'

It is written against docs/plugin-protocol.md alone, and uses nothing of Starling's Go code. Below the line that says so,
nothing is about recipes: for a model of your own, change what is above it.
"""

MODEL = "recipe"
VERSION = 1  # of FIELDS, which are only ever added
DOC = "recipes"
FIELDS = {  # name: type and options, as in a Description
    "name": dict(type="text", required=True, index=True, doc="what people read; not blank"),
    "steps": dict(type="text", doc="how it is done; of two writes the later one stands"),
    "minutes": dict(type="int", doc="how long it takes"),
    "rating": dict(type="int", merge="max", doc="the best that anybody has given"),
}


def validate(record):
    """Says why a record, a dict of its fields, may not be written here; None if it may."""
    if not record["name"].strip():
        return 'field "name": write what people should read; it is blank'
    if (record.get("minutes") or 0) < 0:
        return 'field "minutes": a recipe takes no negative time'
    return None


# ---------------------------------------------------------------- nothing below is about recipes

import base64
import concurrent.futures
import datetime
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading

COOKIE, COOKIE_VALUE = "STARLING_PLUGIN", "6f1d3c1a-8d0e-4c55-9a63-2b7c5f0e4d19"
if os.environ.get(COOKIE) != COOKIE_VALUE:
    sys.exit(f"{sys.argv[0]} is a Starling plugin: the host starts it. Name it in config.hcl and run `starling run`.")

import grpc
import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MAX_MESSAGE = 64 << 20
MAX_RECORD = 1 << 20
MAX_STAMP = (1 << 63) - 1
CREDITS = 4
INSERT, UPDATE, DELETE = 1, 2, 3


class Refused(Exception):
    """An answer of no: a code that programs act on, and a sentence for people."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# Messages: what this plugin needs of rpc.proto. Fields that are not named here are skipped, as newer ones would be.

MESSAGES = """
Error            string code = 1; string message = 2
InfoRequest
InfoReply        repeated Description models = 1; string version = 3
Description      string model = 1; uint32 version = 2; string ownership = 3; repeated Field fields = 4; string doc = 6
Field            string name = 1; string type = 2; string merge = 3; bool required = 6; bool index = 8; string doc = 9
ConfigureRequest string model = 1; bytes config = 2
ConfigureReply
HealthRequest
HealthReply      bool ok = 1; repeated string reasons = 2
DrainRequest
DrainReply
StopRequest
StopReply
Batch            string model = 1; uint32 version = 2; repeated string columns = 3; uint32 count = 4; bytes rows = 5
ApplyRequest     uint64 id = 1; string model = 2; Batch batch = 3; bytes origin = 4; bool local = 5; bool shared = 6; bytes current = 7
ApplyReply       uint64 id = 1; uint32 credits = 2; Error error = 3; bytes records = 5; bytes conflicts = 6; bytes resolved = 7; repeated Refusal refused = 8
Refusal          uint32 index = 1; string code = 2; string message = 3
Any              string type_url = 1; bytes value = 2
Status           int32 code = 1; string message = 2; repeated Any details = 3
"""
PACKAGE = "starling.plugin.v1"


def messages():
    """Returns the classes of MESSAGES by name."""
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="plugin.proto", package=PACKAGE, syntax="proto3")
    for line in MESSAGES.strip().splitlines():
        name, _, fields = line.partition(" ")
        message = file.message_type.add(name=name)
        for label, kind, field, number in re.findall(r"(repeated )?(\w+) (\w+) = (\d+)", fields):
            f = message.field.add(name=field, number=int(number), label=proto.LABEL_REPEATED if label else proto.LABEL_OPTIONAL)
            if kind[0].isupper():
                f.type, f.type_name = proto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                f.type = getattr(proto, "TYPE_" + kind.upper())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {m.name: make(pool.FindMessageTypeByName(f"{PACKAGE}.{m.name}")) for m in file.message_type}


M = messages()


# Values and records, in MessagePack.

TAGS = {type(None): 0, str: 1, int: 2, float: 3, bool: 4, bytes: 5}  # 6 is an id


def unpacker(data):
    # Text that is not UTF-8 must be told from text that is, and be refused by the name of its field.
    u = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False, max_buffer_size=len(data) + 1)
    u.feed(data)
    return u


def check(kind, value):
    """Returns value as the field's type has it, or refuses what no database can keep."""
    if value is None:
        return None
    types = {"text": str, "json": str, "int": int, "time": int, "float": float, "bool": bool, "bytes": bytes, "ref": bytes}
    wanted = types.get(kind)
    if wanted and type(value) is not wanted and not (wanted is float and type(value) is int):
        raise Refused("invalid", f"want {kind}, got a {type(value).__name__}")
    if not wanted and type(value) not in TAGS:
        raise Refused("unsupported", f"a packed {type(value).__name__} is of no type that is known here")
    if type(value) is str:
        if "\0" in value:
            raise Refused("invalid", "text holds NUL")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused("invalid", "text is not valid UTF-8") from None
    if type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise Refused("invalid", "a number beyond 64 bits")
    if type(value) is float:
        if not math.isfinite(value):
            raise Refused("invalid", "a number that is not finite")
        value = value or 0.0  # one zero
    if kind == "ref" and len(value) != 16:
        raise Refused("invalid", f"an id of {len(value)} bytes; want 16")
    return value


def pack_value(value, ref=False):
    return msgpack.packb(6 if ref and value is not None else TAGS[type(value)]) + msgpack.packb(value)


def pack_version(version):
    return msgpack.packb(version[0]) + msgpack.packb(version[1])


def read_version(u):
    return u.unpack(), u.unpack()


NEVER = (0, b"")


class Record:
    """A record and its clocks: versions are pairs of stamp and device, which order as all writes do."""

    def __init__(self, id):
        self.id, self.inserted, self.deleted, self.fields = id, NEVER, NEVER, {}  # name: (value, version, seen)

    def copy(self):
        other = Record(self.id)
        other.inserted, other.deleted, other.fields = self.inserted, self.deleted, dict(self.fields)
        return other

    def state(self):
        return self.inserted, self.deleted, self.fields

    def exists(self):
        return self.inserted > self.deleted

    def values(self):
        return {name: field[0] for name, field in self.fields.items()}

    def pack(self):
        out = [msgpack.packb(self.id), pack_version(self.inserted), pack_version(self.deleted), msgpack.packb(len(self.fields))]
        for name in sorted(self.fields, key=str.encode):
            value, version, seen = self.fields[name]
            out += [msgpack.packb(name), pack_value(value, is_ref(name)), pack_version(version), msgpack.packb(seen)]
        return b"".join(out)


def is_ref(name):
    return FIELDS.get(name, {}).get("type") == "ref"


def read_records(data):
    records, u = {}, unpacker(data)
    while u.tell() < len(data):
        record = Record(u.unpack())
        record.inserted, record.deleted = read_version(u), read_version(u)
        for _ in range(u.unpack()):
            name, _tag, value = u.unpack(), u.unpack(), u.unpack()
            record.fields[name] = (value, read_version(u), u.unpack())
        records[record.id] = record
    return records


# Operations, and how they merge.


class Op:
    def __init__(self, raw, columns):
        if type(raw) is not list or len(raw) < 3 or len(raw) % 3 != 0:
            raise Refused("invalid", "an operation is an array of id, stamp, kind and three parts a field")
        self.id, self.stamp, self.kind = raw[:3]
        if type(self.id) is not bytes or len(self.id) != 16:
            raise Refused("invalid", "an id is 16 bytes")
        if type(self.stamp) is not int or not 0 <= self.stamp <= MAX_STAMP:
            raise Refused("invalid", "a stamp is a number of 63 bits")
        if self.kind not in (INSERT, UPDATE, DELETE) or (self.kind == DELETE and len(raw) > 3):
            raise Refused("invalid", f"operation kind {self.kind!r}")
        self.writes = {}  # name: (value, seen)
        for column, value, seen in zip(raw[3::3], raw[4::3], raw[5::3]):
            if type(column) is not int or not 0 <= column < len(columns):
                raise Refused("invalid", f"column {column!r} of {len(columns)}")
            if type(seen) is not int or not 0 <= seen <= MAX_STAMP:
                raise Refused("invalid", "a stamp is a number of 63 bits")
            name = columns[column]
            if name in self.writes:
                raise Refused("invalid", f'field "{name}" is written twice in one operation')
            try:
                self.writes[name] = (check(FIELDS.get(name, {}).get("type"), value), seen)
            except Refused as err:
                raise Refused("invalid" if err.code == "unsupported" else err.code, f'field "{name}": {err}') from None


class Merge:
    """Merges one batch. What comes of it depends on the set of operations, never on their order or repetition."""

    def __init__(self, request):
        self.batch, self.local, self.origin = request.batch, request.local, bytes(request.origin)
        if len(self.origin) != 16:
            raise Refused("invalid", "an origin is 16 bytes")
        if self.batch.model != MODEL:
            raise Refused("unknown_model", f'a batch of model "{self.batch.model}" was given to model "{MODEL}"')
        if not 0 <= self.batch.count <= len(self.batch.rows):
            raise Refused("invalid", f"a batch of {self.batch.count} operations in {len(self.batch.rows)} bytes")
        if len(set(self.batch.columns)) != len(self.batch.columns):
            raise Refused("invalid", "two columns have the same name")
        self.records = read_records(request.current)
        self.changed, self.conflicts, self.resolved, self.refused = {}, [], [], []

    def run(self):
        rows, start = unpacker(self.batch.rows), 0
        columns = list(self.batch.columns)
        for index in range(self.batch.count):
            try:
                raw = rows.unpack()
            except Exception:  # the rest can not be found either
                self.refused += [(i, "invalid", "unreadable, or behind what is") for i in range(index, self.batch.count)]
                break
            size, start = rows.tell() - start, rows.tell()
            try:
                if size > MAX_RECORD:
                    raise Refused("too_large", f"an operation of {size} bytes; at most {MAX_RECORD} are allowed")
                self.apply(Op(raw, columns))
            except Refused as err:
                self.refused.append((index, err.code, str(err)))
        else:
            if start < len(self.batch.rows):
                raise Refused("invalid", f"{len(self.batch.rows) - start} bytes after the last operation")

    def apply(self, op):
        if op.stamp == 0 and not self.local:
            raise Refused("invalid", "an operation without a stamp")
        before = self.records.get(op.id) or Record(op.id)
        record = before.copy()
        if self.local:
            self.check_local(op, before)
        conflicts, resolved = self.merge(op, record)
        if self.local and op.kind != DELETE:
            self.check_merged(op, record)
        self.conflicts += conflicts
        self.resolved += resolved
        if record.state() != before.state():
            self.records[op.id] = self.changed[op.id] = record

    def check_local(self, op, record):
        if op.kind == INSERT and record.exists():
            raise Refused("invalid", f"this {MODEL} already exists; update it instead")
        if op.kind != INSERT and not record.exists():
            raise Refused("not_found", f"there is no such {MODEL}")
        for name, (value, _) in op.writes.items():
            if name not in FIELDS:
                raise Refused("unknown_field", f'{MODEL} has no field "{name}"; it has {", ".join(FIELDS)}')
            if value is None and FIELDS[name].get("required"):
                raise Refused("invalid", f'field "{name}" is required')

    def check_merged(self, op, record):
        values = record.values()
        for name, field in FIELDS.items():
            if op.kind == INSERT and field.get("required") and values.get(name) is None:
                raise Refused("invalid", f'field "{name}" is required')
        if sum(len(msgpack.packb(v)) for v in values.values()) > MAX_RECORD:
            raise Refused("too_large", f"the record would have over {MAX_RECORD} bytes")
        why = validate(values)
        if why:
            raise Refused("invalid", why)

    def merge(self, op, record):
        version = (op.stamp, self.origin)
        conflicts, resolved = [], []
        if op.kind == INSERT:
            record.inserted = max(record.inserted, version)
        if op.kind == DELETE:
            record.deleted = max(record.deleted, version)
        for name, (value, seen) in op.writes.items():
            kind = FIELDS.get(name, {}).get("merge", "lww")
            new, old = (value, version, seen), record.fields.get(name)
            if old and old[1] == version:
                continue  # a repetition
            if kind != "lww":
                if not old or self.beats(kind, new, old):
                    record.fields[name] = new
                continue
            if seen and (not old or seen != old[1][0]):
                resolved.append((op.id, name, seen))
            if not old:
                record.fields[name] = new
                continue
            lost, winner = (old, new) if version > old[1] else (new, old)
            record.fields[name] = winner
            aware = winner[2] == lost[1][0] or winner[1][1] == lost[1][1]  # a device has seen its own writes
            if not aware and (type(lost[0]), lost[0]) != (type(winner[0]), winner[0]):
                conflicts.append((op.id, name, lost[0], lost[1], winner[1]))
        return conflicts, resolved

    @staticmethod
    def beats(kind, new, old):
        """Whether the write new stands against old in a max or min field, where nil beats nothing."""
        a, b = new[0], old[0]
        if a == b:
            return new[1] > old[1]
        if a is None or b is None:
            return b is None
        return (a > b) == (kind == "max")

    def reply(self):
        reply = M["ApplyReply"](records=b"".join(r.pack() for r in self.changed.values()))
        reply.conflicts = b"".join(
            msgpack.packb(id) + msgpack.packb(name) + pack_value(value, is_ref(name)) + pack_version(lost) + pack_version(winner)
            for id, name, value, lost, winner in self.conflicts
        )
        reply.resolved = b"".join(
            msgpack.packb(id) + msgpack.packb(name) + pack_value(None) + pack_version((seen, b"")) + pack_version(NEVER)
            for id, name, seen in self.resolved
        )
        for index, code, message in self.refused:
            reply.refused.add(index=index, code=code, message=message)
        return reply


# The services, and the process.


def log(level, message):
    """A line of the host's log."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds")
    print(json.dumps({"@level": level, "@message": message, "@timestamp": now}), file=sys.stderr, flush=True)


class Plugin:
    def __init__(self):
        self.idle = threading.Condition()
        self.working, self.draining = 0, False

    def Info(self, request, context):
        described = M["Description"](model=MODEL, version=VERSION, ownership="shared", doc=DOC)
        for name, field in FIELDS.items():
            described.fields.add(name=name, **field)
        return M["InfoReply"](models=[described], version="1")

    def Configure(self, request, context):
        if request.model != MODEL:
            raise Refused("unknown_model", f'this plugin does not serve "{request.model}"')
        try:
            block = json.loads(request.config or b"{}")
        except ValueError as err:
            raise Refused("invalid", f"the config block is not JSON: {err}") from None
        if type(block) is not dict:
            raise Refused("invalid", "the config block is not a JSON object")
        for name in block:
            raise Refused("invalid", f'model "{MODEL}" takes no settings; remove "{name}" from its config block')
        return M["ConfigureReply"]()

    def Health(self, request, context):
        return M["HealthReply"](ok=True)

    def Drain(self, request, context):
        with self.idle:
            self.draining = True
            self.idle.wait_for(lambda: self.working == 0, context.time_remaining())
        return M["DrainReply"]()

    def Stop(self, request, context):
        context.add_callback(lambda: os._exit(0))  # once the reply has left
        return M["StopReply"]()

    def Apply(self, requests, context):
        first = next(requests)
        if first.model != MODEL:
            raise Refused("unknown_model", f'this plugin does not serve model "{first.model}"')
        yield M["ApplyReply"](credits=CREDITS)
        for request in requests:
            reply = self.answer(request)
            reply.id = request.id
            yield reply

    def answer(self, request):
        """Answers one batch and never fails: an error is an answer."""
        with self.idle:
            if self.draining:
                return M["ApplyReply"](error=M["Error"](code="unavailable", message="the plugin is being stopped; call again"))
            self.working += 1
        try:
            if not request.shared:
                raise Refused("unsupported", f"{MODEL} is shared; it has no rows of one owner")
            merge = Merge(request)
            merge.run()
            reply = merge.reply()
            if reply.ByteSize() > MAX_MESSAGE:
                raise Refused("too_large", f"the answer would have {reply.ByteSize()} bytes; send smaller batches")
            return reply
        except Refused as err:
            return M["ApplyReply"](error=M["Error"](code=err.code, message=str(err)))
        except Exception as err:
            log("error", f"a batch failed: {err!r}")
            return M["ApplyReply"](error=M["Error"](code="invalid", message=f"the batch can not be read: {err!r}"))
        finally:
            with self.idle:
                self.working -= 1
                self.idle.notify_all()


def fail(context, err):
    """Ends a call with an Error, so that the host finds its code again."""
    error = M["Error"](code=err.code, message=str(err))
    status = M["Status"](code=grpc.StatusCode.UNKNOWN.value[0], message=str(err))
    status.details.add(type_url=f"type.googleapis.com/{PACKAGE}.Error", value=error.SerializeToString())
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, str(err))


def handlers(plugin):
    def unary(name):
        def call(request, context):
            try:
                return getattr(plugin, name)(request, context)
            except Refused as err:
                fail(context, err)

        return grpc.unary_unary_rpc_method_handler(call, M[name + "Request"].FromString, M[name + "Reply"].SerializeToString)

    def apply(requests, context):
        try:
            yield from plugin.Apply(requests, context)
        except Refused as err:
            fail(context, err)

    calls = {name: unary(name) for name in ("Info", "Configure", "Health", "Drain", "Stop")}
    stream = grpc.stream_stream_rpc_method_handler(apply, M["ApplyRequest"].FromString, M["ApplyReply"].SerializeToString)
    return (
        grpc.method_handlers_generic_handler(f"{PACKAGE}.PluginService", calls),
        grpc.method_handlers_generic_handler(f"{PACKAGE}.ModelService", {"Apply": stream}),
    )


def certificate():
    """Returns a key and a certificate of its own, for this run, in PEM, and the certificate in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, cert.public_bytes(pem), cert.public_bytes(serialization.Encoding.DER)


def watch_host():
    """Ends the process when the host's end of the lifeline closes, however the host ended."""
    descriptor = os.environ.get("STARLING_PLUGIN_LIFELINE")
    if not descriptor:
        return
    os.set_inheritable(int(descriptor), False)

    def wait():
        while os.read(int(descriptor), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the host
    watch_host()
    key, cert, der = certificate()
    size = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(max_workers=16), options=size)
    server.add_generic_rpc_handlers(handlers(Plugin()))
    folder = tempfile.mkdtemp(prefix="recipe-", dir=os.environ.get("PLUGIN_UNIX_SOCKET_DIR") or None)
    socket = os.path.join(folder, "socket")
    credentials = grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=os.environ["PLUGIN_CLIENT_CERT"].encode(), require_client_auth=True
    )
    server.add_secure_port("unix:" + socket, credentials)
    server.start()
    print(f"1|1|unix|{socket}|grpc|{base64.b64encode(der).decode().rstrip('=')}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
