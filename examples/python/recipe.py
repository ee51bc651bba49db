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
SETTINGS = {  # of the config block: type, default and the like, as in a Setting; the host checks the block by them
    "max_minutes": dict(type="int", default="1440", doc="how long a recipe that is written here may take"),
}


def check_settings(settings):
    """Says which setting makes no sense, and why; None if all do. Those that the block leaves out have their default."""
    if settings["max_minutes"] < 1:
        return "max_minutes", "max_minutes: no recipe takes less than a minute"
    return None


def validate(record, settings):
    """Says why a record, a dict of its fields, may not be written here; None if it may."""
    if not record["name"].strip():
        return 'field "name": write what people should read; it is blank'
    if (record.get("minutes") or 0) < 0:
        return 'field "minutes": a recipe takes no negative time'
    if (record.get("minutes") or 0) > settings["max_minutes"]:
        return f'field "minutes": more than the {settings["max_minutes"]} that max_minutes allows'
    return None


# ---------------------------------------------------------------- nothing below is about recipes

import base64
import collections
import concurrent.futures
import dataclasses
import datetime
import itertools
import json
import math
import os
import re
import signal
import struct
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
MAX_PARTS = MAX_RECORD // 2
MAX_STAMP = (1 << 63) - 1
CREDITS = 4
INSERT, UPDATE, DELETE = 1, 2, 3
MERGES = ("lww", "max", "min", "set", "counter")  # where peers say different things of an unknown field, the last of these holds


class Refused(Exception):
    """An answer of no: a code that programs act on, and a sentence for people."""

    def __init__(self, code, message, setting=""):
        super().__init__(message)
        self.code, self.setting = code, setting


# Messages: what this plugin needs of rpc.proto. Fields that are not named here are skipped, as newer ones would be.

MESSAGES = """
Error            string code = 1; string message = 2; string setting = 3
InfoRequest
InfoReply        repeated Description models = 1; string version = 3
Description      string model = 1; uint32 version = 2; string ownership = 3; repeated Field fields = 4; string doc = 6; Settings settings = 7
Field            string name = 1; string type = 2; string merge = 3; bool required = 6; bool index = 8; string doc = 9
Settings         repeated Setting settings = 1
Setting          string name = 1; string type = 2; bool required = 3; string default = 4; bool secret = 5; string doc = 6
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

TAGS = {type(None): 0, str: 1, int: 2, float: 3, bool: 4, bytes: 5}
TAG_ID, TAG_MERGED = 6, 7


def unpacker(data):
    # Text that is not UTF-8 must be told from text that is, and be refused by the name of its field.
    u = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False, max_buffer_size=len(data) + 1)
    u.feed(data)
    return u


def want(holds, why):
    if not holds:
        raise Refused("invalid", why)


def check_id(id):
    want(type(id) is bytes and len(id) == 16, "an id is 16 bytes")


def check_stamp(stamp):
    want(type(stamp) is int and 0 <= stamp <= MAX_STAMP, "a stamp is a number of 63 bits")


def check(kind, value):
    """Returns value as the field's type has it, or refuses what no database can keep."""
    if value is None:
        return None
    types = {"text": str, "json": str, "int": int, "time": int, "float": float, "bool": bool, "bytes": bytes, "ref": bytes}
    wanted = types.get(kind)
    if wanted and type(value) is not wanted:
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


def pack_plain(value):
    """Packs a value in one way only: whole numbers in the shortest signed form, where msgpack would take an unsigned one."""
    if type(value) is int and not -32 <= value < 128:
        for head, form, bits in ((0xD0, "b", 7), (0xD1, "h", 15), (0xD2, "i", 31), (0xD3, "q", 63)):
            if -(1 << bits) <= value < 1 << bits:
                return struct.pack(">B" + form, head, value)
    return msgpack.packb(value)


def pack_array(packed):
    return msgpack.Packer().pack_array_header(len(packed)) + b"".join(packed)


def pack_value(value, ref=False):
    is_id = ref and type(value) is bytes and len(value) == 16
    return msgpack.packb(TAG_ID if is_id else TAGS[type(value)]) + pack_plain(value)


def pack_version(version):
    return msgpack.packb(version[0]) + msgpack.packb(version[1])


def read_version(u):
    return u.unpack(), u.unpack()


NEVER = (0, b"")


# Sets and counters merge in parts. Of two parts for one place the greater stands, so that their order says nothing.


@dataclasses.dataclass
class Parts:
    """The state of a set or a counter.

    set      held is {(element, device that added it): (stamp, whether that is removed)}
    counter  held is {part of a start that counts: ((stamp, device), what it has added, or taken away, in all)}
    """

    kind: str
    held: dict

    def merged(self, said):
        held = dict(self.held)
        for place, part in said:
            if place not in held or self.order(part) > self.order(held[place]):
                held[place] = part
        return Parts(self.kind, held)

    def order(self, part):
        """Of a counter the total farther from 0 stands: a start counts up in one part, and down in another."""
        if self.kind == "counter":
            version, total = part
            return abs(total), version, total
        return part

    def value(self):
        """Returns what people see: a sum, as near as 64 bits come; the elements as a JSON array."""
        if self.kind == "counter":
            return max(-(1 << 63), min(sum(total for _, total in self.held.values()), (1 << 63) - 1))
        there = {element for (element, _), (_, removed) in self.held.items() if not removed}
        text = json.dumps(sorted(there, key=element_order), ensure_ascii=False, separators=(",", ":"))
        return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")

    def versions(self):
        if self.kind == "counter":
            return {version for version, _ in self.held.values()}
        return {(stamp, device) for (_, device), (stamp, _) in self.held.items()}

    def size(self):
        """Returns about how many bytes the operations take that make this state, as a snapshot carries it."""
        if self.kind == "counter":
            return 64 * len(self.held)
        removed = {(stamp, device) for (_, device), (stamp, gone) in self.held.items() if gone}
        return 51 * len(self.versions()) + 28 * len(removed) + sum(len(pack_plain(element)) for element, _ in self.held)

    def pack(self):
        devices = sorted({device for _, device in self.versions()})
        index = {device: at for at, device in enumerate(devices)}
        packed = []
        if self.kind == "counter":
            for part, ((stamp, device), total) in sorted(self.held.items()):
                packed.append(pack_array([msgpack.packb(part), pack_plain(index[device]), msgpack.packb(stamp), pack_plain(total)]))
        else:
            places = sorted(self.held, key=lambda place: (element_order(place[0]), place[1]))
            for element, run in itertools.groupby(places, key=lambda place: place[0]):
                fields = [pack_plain(element)]
                for place in run:
                    stamp, removed = self.held[place]
                    fields += [pack_plain(2 * index[place[1]] + removed), msgpack.packb(stamp)]
                packed.append(pack_array(fields))
        return pack_array([msgpack.packb(self.kind), pack_array([msgpack.packb(d) for d in devices]), pack_array(packed)])


def element_order(element):
    return type(element) is str, element  # numbers first


def read_parts(state):
    kind, devices, packed = msgpack.unpackb(state)
    if kind == "counter":
        return Parts(kind, {part: ((stamp, devices[at]), total) for part, at, stamp, total in packed})
    runs = ((run[0], at, stamp) for run in packed for at, stamp in zip(run[1::2], run[2::2]))
    return Parts(kind, {(element, devices[at // 2]): (stamp, at % 2 == 1) for element, at, stamp in runs})


def said_parts(kind, field_type, raw, version):
    """Returns the places and parts of what an operation of that version says to a set or counter, or refuses it."""
    want(type(raw) is list and len(raw) == 2, f"a write to a {kind} is an array of two, not {type(raw).__name__}")
    if kind == "counter":
        part, total = raw
        want(type(part) is bytes and len(part) == 8, "a counter's part is named by 8 bytes")
        want(type(total) is int, f"a counter's total is a whole number, not {type(total).__name__}")
        return [(part, (version, check("int", total)))]

    def element(e):
        want(type(e) in (str, int), f"an element of a set is text or a whole number, not {type(e).__name__}")
        return check(field_type or ("text" if type(e) is str else "int"), e)

    adds, removes = raw
    want(type(adds) is list and type(removes) is list, "a write to a set is an array of adds and one of removes")
    stamp, device = version
    said = [((element(e), device), (stamp, False)) for e in adds]
    for remove in removes:
        want(type(remove) is list and len(remove) >= 3, "a remove is an array of device, stamp and elements")
        by, at = remove[:2]
        check_id(by)
        check_stamp(at)
        want(0 < at < stamp or (at, by) == version, f"it removes what was added at {at}, and is of {stamp} itself")
        said += [((element(e), by), (at, True)) for e in remove[2:]]
    return said


# merge is the kind of a field that is not in FIELDS, "" for lww; a set or counter has parts, and its value follows from them.
Field = collections.namedtuple("Field", "value version seen merge parts", defaults=("", None))


class Record:
    """A record and its clocks: versions are pairs of stamp and device, which order as all writes do."""

    def __init__(self, id):
        self.id, self.inserted, self.deleted, self.fields = id, NEVER, NEVER, {}  # name: Field

    def copy(self):
        other = Record(self.id)
        other.inserted, other.deleted, other.fields = self.inserted, self.deleted, dict(self.fields)
        return other

    def state(self):
        return self.inserted, self.deleted, self.fields

    def exists(self):
        return self.inserted > self.deleted

    def values(self):
        return {name: f.parts.value() if f.parts else f.value for name, f in self.fields.items()}

    def pack(self):
        out = [msgpack.packb(self.id), pack_version(self.inserted), pack_version(self.deleted), msgpack.packb(len(self.fields))]
        for name, value in sorted(self.values().items()):
            field = self.fields[name]
            out.append(msgpack.packb(name))
            if field.merge or field.parts:
                state = field.parts.pack() if field.parts else b""
                out += [msgpack.packb(TAG_MERGED), msgpack.packb(field.merge), msgpack.packb(state)]
            out += [pack_value(value, is_ref(name)), pack_version(field.version), msgpack.packb(field.seen)]
        return b"".join(out)


def is_ref(name):
    return FIELDS.get(name, {}).get("type") == "ref"


def read_records(data):
    records, u = {}, unpacker(data)
    while u.tell() < len(data):
        record = Record(u.unpack())
        record.inserted, record.deleted = read_version(u), read_version(u)
        for _ in range(u.unpack()):
            name, tag, merge, state = u.unpack(), u.unpack(), "", b""
            if tag == TAG_MERGED:
                merge, state, _tag = u.unpack(), u.unpack(), u.unpack()
            value, version, seen = u.unpack(), read_version(u), u.unpack()
            record.fields[name] = Field(value, version, seen, merge, read_parts(state) if state else None)
        records[record.id] = record
    return records


# Operations, and how they merge.


def read_columns(columns):
    """Returns the name and the merge kind of each column. Of a field that is not known here the column says how it merges."""
    read = []
    for column in columns:
        name, _, kind = column.partition(":")
        want(re.fullmatch("[a-z][a-z0-9_]{0,47}", name) and name != "id", f'"{column}" can not name a column')
        if name in FIELDS:
            kind = FIELDS[name].get("merge")
        read.append((name, kind if kind in MERGES else "lww"))
    want(len({name for name, _ in read}) == len(read), "two columns have the same name")
    return read


Write = collections.namedtuple("Write", "kind value seen")  # of a set or counter, value is what said_parts returns


class Op:
    def __init__(self, raw, columns, origin):
        if type(raw) is not list or len(raw) < 3 or len(raw) % 3 != 0:
            raise Refused("invalid", "an operation is an array of id, stamp, kind and three parts a field")
        self.id, self.stamp, self.kind = raw[:3]
        check_id(self.id)
        check_stamp(self.stamp)
        if self.kind not in (INSERT, UPDATE, DELETE) or (self.kind == DELETE and len(raw) > 3):
            raise Refused("invalid", f"operation kind {self.kind!r}")
        self.writes = {}  # name: Write
        for column, value, seen in zip(raw[3::3], raw[4::3], raw[5::3]):
            want(type(column) is int and 0 <= column < len(columns), f"column {column!r} of {len(columns)}")
            check_stamp(seen)
            name, kind = columns[column]
            want(name not in self.writes, f'field "{name}" is written twice in one operation')
            field_type = FIELDS.get(name, {}).get("type")
            try:
                if kind in ("set", "counter"):
                    value, seen = said_parts(kind, field_type, value, (self.stamp, origin)), 0
                else:
                    value = check(field_type, value)
            except Refused as err:
                raise Refused(err.code, f'field "{name}": {err}') from None
            self.writes[name] = Write(kind, value, seen)


def same(a, b):
    return type(a) is type(b) and a == b  # True is 1 in Python


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
        self.columns = read_columns(self.batch.columns)
        self.records = read_records(request.current)
        self.changed, self.conflicts, self.resolved, self.refused = {}, [], [], []

    def run(self):
        rows, start = unpacker(self.batch.rows), 0
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
                self.apply(Op(raw, self.columns, self.origin))
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
        for name, write in op.writes.items():
            if name not in FIELDS:
                raise Refused("unknown_field", f'{MODEL} has no field "{name}"; it has {", ".join(FIELDS)}')
            if write.value is None and FIELDS[name].get("required"):
                raise Refused("invalid", f'field "{name}" is required')

    def check_merged(self, op, record):
        values = record.values()
        for name, field in FIELDS.items():
            if op.kind == INSERT and field.get("required") and values.get(name) is None:
                raise Refused("invalid", f'field "{name}" is required')
        if sum(len(msgpack.packb(v)) for v in values.values()) > MAX_RECORD:
            raise Refused("too_large", f"the record would have over {MAX_RECORD} bytes")
        if sum(f.parts.size() for f in record.fields.values() if f.parts) > MAX_PARTS:
            raise Refused("too_large", f"the record's sets and counters would take over {MAX_PARTS} bytes, with what was removed from them")
        why = validate(values, settings_now)
        if why:
            raise Refused("invalid", why)

    def merge(self, op, record):
        version = (op.stamp, self.origin)
        conflicts, resolved = [], []
        if op.kind == INSERT:
            record.inserted = max(record.inserted, version)
        if op.kind == DELETE:
            record.deleted = max(record.deleted, version)
        for name, (kind, value, seen) in op.writes.items():
            unknown = name not in FIELDS
            merge = kind if unknown and kind != "lww" else ""
            old = record.fields.get(name)
            if old and unknown and old.merge != merge:
                if MERGES.index(kind) < MERGES.index(old.merge or "lww"):
                    continue
                old = None
            if kind in ("set", "counter"):  # nothing is lost there, so nothing is a conflict
                old = old or Field(None, version, 0, merge)
                parts = (old.parts or Parts(kind, {})).merged(value)
                record.fields[name] = old._replace(version=max(old.version, version), parts=parts)
                continue
            new = Field(value, version, seen, merge)
            if old and old.version == version:
                # A repetition; or a damaged disk, or two copies of a device, made two values of one write: one stands everywhere.
                if self.beats("max" if kind == "lww" else kind, new, old):
                    record.fields[name] = new
                continue
            if kind != "lww":
                if not old or self.beats(kind, new, old):
                    record.fields[name] = new
                continue
            if seen and (not old or seen != old.version[0]):
                resolved.append((op.id, name, seen))
            if not old:
                record.fields[name] = new
                continue
            lost, winner = (old, new) if version > old.version else (new, old)
            record.fields[name] = winner
            if winner.seen != lost.version[0] and not same(lost.value, winner.value):  # also if one device wrote both
                conflicts.append((op.id, name, lost.value, lost.version, winner.version))
        return conflicts, resolved

    @staticmethod
    def beats(kind, new, old):
        """Whether the write new stands against old in a max or min field, where nil beats nothing."""
        a, b = new.value, old.value
        if same(a, b):
            return new.version > old.version
        if a is None or b is None:
            return b is None
        if type(a) is not type(b):  # a faulty peer; every device orders them alike
            a, b = pack_plain(a), pack_plain(b)
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


# What JSON makes of a setting of each type that this plugin could have; durations and sizes are text.
SETTING_TYPES = {
    "text": (str,), "int": (int,), "float": (int, float), "bool": (bool,), "duration": (str,), "size": (str,), "list": (list,), "map": (dict,),
}


def default_settings():
    """The defaults, as the block would have them: text as it is, anything else as JSON."""
    plain = ("text", "duration", "size")
    return {n: s["default"] if s["type"] in plain else json.loads(s["default"]) for n, s in SETTINGS.items() if "default" in s}


settings_now = default_settings()  # until Configure


class Plugin:
    def __init__(self):
        self.idle = threading.Condition()
        self.working, self.draining = 0, False

    def Info(self, request, context):
        described = M["Description"](model=MODEL, version=VERSION, ownership="shared", doc=DOC)
        for name, field in FIELDS.items():
            described.fields.add(name=name, **field)
        described.settings.SetInParent()  # also where there are none: the host then knows that there are none
        for name, setting in SETTINGS.items():
            described.settings.settings.add(name=name, **setting)
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
        for name, value in block.items():
            if name not in SETTINGS:
                raise Refused("invalid", f'unknown setting "{name}"; there are: {", ".join(SETTINGS)}', name)
            if type(value) not in SETTING_TYPES[SETTINGS[name]["type"]]:
                raise Refused("invalid", f"{name}: want {SETTINGS[name]['type']}", name)
        for name, setting in SETTINGS.items():
            if setting.get("required") and name not in block:
                raise Refused("invalid", f"{name}: it is missing", name)
        settings = {**default_settings(), **block}
        wrong = check_settings(settings)
        if wrong:
            raise Refused("invalid", wrong[1], wrong[0])
        settings_now.update(settings)
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
    error = M["Error"](code=err.code, message=str(err), setting=err.setting)
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
