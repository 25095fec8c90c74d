"""Has etl-parser read event trace logs: a reader of another author, in another language.

Takes files as arguments, and writes a JSON object a line: {"file"} and {"lost", "buffers", "end"} before each file's events; {"id", "name", "level", "keywords",
"guid", "process", "thread", "time", "fields"} for each event; {"refused"} where a file cannot be read. Values are in the form of
`weir trace decode --json`, each made of what etl-parser gave and of the type that it read.
"""

import ipaddress
import json
import struct
import sys
import uuid

from etl.etl import IEtlFileObserver, build_from_stream
from etl.parsers import tracelogging

UINT8, BINARY, GUID, HEX_INT32, COUNTED_STRING, COUNTED_ANSI_STRING = 4, 14, 15, 20, 22, 23
SHOWN_BOOLEAN, SHOWN_IPV6, SHOWN_NTSTATUS = 3, 9, 14

# What etl-parser 1.0.1 does not read as TraceLoggingProvider.h has it: it knows no counted UTF-16 text (type 22), and takes the
# count of counted 8-bit text (type 23) for one signed byte, one less than the text, and the text for ASCII.
read_field = tracelogging.read_field


def counted(stream):
    (length,) = struct.unpack("<H", stream.read_exact(2))
    data = stream.read(length)
    if len(data) != length:
        raise EOFError("a text is cut off")
    return data


def read_any_field(stream, tag):
    if tag & 0x1F == COUNTED_STRING:
        return counted(stream).decode("utf-16-le")
    if tag & 0x1F == COUNTED_ANSI_STRING:
        return counted(stream).decode("utf-8")
    return read_field(stream, tag)


tracelogging.read_field = read_any_field

# And it does not look whether something is left when all fields are read.
streams = []


class Stream(tracelogging.BytesIORaise):
    def __init__(self, *rest):
        super().__init__(*rest)
        streams.append(self)


tracelogging.BytesIORaise = Stream


def guid(parsed):
    inner = parsed.inner
    return "{%s}" % uuid.UUID(fields=(inner.data1, inner.data2, inner.data3, *inner.data4[:2], int.from_bytes(inner.data4[2:], "big")))


def value(field, given):
    kind, shown = field.tag_in & 0x1F, (field.tag_out or 0) & 0x7F
    if kind == BINARY and shown == SHOWN_IPV6:
        address = ipaddress.IPv6Address(bytes(given))
        return str(address.ipv4_mapped or address)
    if kind == BINARY:
        return bytes(given).hex()
    if kind == GUID:
        return guid(given)
    if kind == UINT8 and shown == SHOWN_BOOLEAN:
        return bool(given)
    if kind == HEX_INT32 and shown == SHOWN_NTSTATUS:
        return "0x%08X" % given
    return given


class Observer(IEtlFileObserver):
    def on_event_record(self, event):
        parsed = event.parse_tracelogging()
        if streams.pop().read():
            raise ValueError("something is left behind the last field")
        header = event.source.event_header
        descriptor = header.event_descriptor
        fields = {field.name: value(field, parsed[field.name]) for field in parsed.scheme.fields}
        print(json.dumps({
            "id": descriptor.Id,
            "name": parsed.get_name(),
            "level": descriptor.Level,
            "keywords": descriptor.Keyword,
            "guid": guid(header.provider_id),
            "process": event.get_process_id(),
            "thread": event.get_thread_id(),
            "time": event.get_timestamp(),
            "fields": fields,
        }))

    def other(self, record):
        raise ValueError("a record that is no event")

    on_trace_record = on_perfinfo_trace = on_system_trace = on_win_trace = other


for path in sys.argv[1:]:
    print(json.dumps({"file": path}))
    try:
        with open(path, "rb") as stream:
            trace = build_from_stream(stream.read())
        # What lies behind the time zone etl-parser reads four bytes too early: not so what is told here.
        about = trace.get_header().source
        print(json.dumps({"lost": about.EventsLost, "buffers": about.BuffersWritten, "end": about.EndTime}))
        trace.parse(Observer())
    except Exception as error:  # Whatever it is, the file is refused.
        print(json.dumps({"refused": f"{type(error).__name__}: {error}"}))
