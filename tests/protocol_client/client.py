"""A client written from src/control/PROTOCOL.md alone, over the packages noiseprotocol and cbor2.

    client.py HOST PORT PRIVATE_KEY DRIVER_KEY ROLE

Speaks with the responder of tests/protocol_client.rs, or (ROLE `driver`) with a driver as its operator, and fails
where that does not answer as the page says.
"""

import hashlib
import socket
import struct
import sys

import cbor2
from noise.connection import Keypair, NoiseConnection

REKEY_INTERVAL = 65536
ERRORS = {"unknown-request": 0, "malformed": 1, "not-permitted": 2, "not-found": 5, "conflict": 6, "digest": 8, "failed": 11}
CONNECTION_V1 = bytes.fromhex("5ee5d4f19929463383687bc7438b4140")


class Client:
    def __init__(self, host, port, private, driver):
        self.socket = socket.create_connection((host, port), timeout=20)
        self.buffer = b""
        self.sent = self.received = 0
        self.noise = NoiseConnection.from_name(b"Noise_IK_25519_ChaChaPoly_BLAKE2s")
        self.noise.set_as_initiator()
        self.noise.set_prologue(b"weir/1")
        self.noise.set_keypair_from_private_bytes(Keypair.STATIC, private)
        self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, driver)
        self.noise.start_handshake()
        first = self.noise.write_message()
        assert len(first) == 96
        self.send_frame(first)
        second = self.receive_frame()
        assert len(second) == 48
        assert self.noise.read_message(second) == b""
        assert self.noise.handshake_finished
        self.events = []

    def send_frame(self, message):
        self.socket.sendall(struct.pack(">H", len(message)) + message)

    def receive_exactly(self, count):
        while len(self.buffer) < count:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.buffer += piece
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def receive_frame(self):
        (length,) = struct.unpack(">H", self.receive_exactly(2))
        assert 1 <= length <= 16384
        return self.receive_exactly(length)

    def send(self, message):
        self.send_frame(self.noise.encrypt(message))
        self.sent += 1
        if self.sent % REKEY_INTERVAL == 0:
            self.noise.rekey_outbound_cipher()

    def receive(self):
        message = self.noise.decrypt(self.receive_frame())
        self.received += 1
        if self.received % REKEY_INTERVAL == 0:
            self.noise.rekey_inbound_cipher()
        return cbor2.loads(message)

    def request(self, number, record, ident=None):
        message = {0: number, 2: record}
        if ident is not None:
            message[1] = ident
        self.send(cbor2.dumps(message))

    def ask(self, number, record, ident):
        """The record of the reply; a failure if it is an error."""
        self.request(number, record, ident)
        return self.answer(number, ident)

    def answer(self, number, ident):
        while True:
            message = self.receive()
            if message[0] == 257:
                self.events.append(message)
                continue
            assert message[1] == ident, message
            assert message[0] == number + 128, message
            return message[2]

    def refused(self, number, record, ident):
        """The record of the error."""
        self.request(number, record, ident)
        message = self.receive()
        assert (message[0], message[1]) == (256, ident), message
        return message[2]


def look(client, role):
    welcome = client.ask(1, {0: 1, 1: "client.py"}, 1)
    assert welcome[0] == 1 and welcome[3] == "python" and welcome[4] == role, welcome
    assert client.ask(2, {}, 2) == {0: 133_800_000_000_000_000}
    status = client.ask(3, {}, 2**64 - 1)
    assert status[4] == 0 and status[13] == 8 and 7 not in status, status

    # Keys and nested things that this driver does not know, in an order of their own.
    client.send(cbor2.dumps({7: [{"later": cbor2.CBORTag(1, -5)}], 2: {99: b"x", "y": {}}, 1: 3, 0: 2}))
    assert client.answer(2, 3) == {0: 133_800_000_000_000_000}

    counters, start = {}, None
    while True:
        part = client.ask(4, {} if start is None else {0: start}, 4)
        counters.update((row[0], row[1]) for row in part[0])
        start = part.get(1)
        if start is None:
            break
    assert counters == {f"part.{n}": n * n for n in range(2000)}, len(counters)

    # Several at once; the responder answers them backwards.
    for ident in (10, 11, 12):
        client.request(5, {0: ident}, ident)
    seen = [client.receive() for _ in range(3)]
    assert [message[1] for message in seen] == [12, 11, 10], seen
    session = seen[0][2][0][0]
    assert session[2] == bytes([127, 0, 0, 1]) and session[6] == "python", session

    assert client.refused(99, {}, 20)[0] == ERRORS["unknown-request"]
    wrong = client.refused(1, {0: "one"}, 21)
    assert (wrong[0], wrong[3]) == (ERRORS["malformed"], 0), wrong
    missing = client.refused(10**4, {}, 22)
    assert missing[0] == ERRORS["unknown-request"]

    explanation = client.ask(17, {0: 1, 1: 6, 4: bytes([192, 0, 2, 7]), 5: 443, 6: "\\device\\x\\a.exe"}, 23)
    assert explanation[0] == 1 and explanation[1] == 1, explanation
    assert [(step[0], step[1], step[2]) for step in explanation[3]] == [(0, "dns", 8 | 16), (1, "web", 0)]

    # session, interface, state, required, provider, status, callbacks, kind, module
    own = welcome[2]
    listener, row = client.ask(6, {}, 24)[0]
    assert listener[7] == 0 and 8 not in listener and listener[5] == 0xC00000BB, listener
    module = bytes.fromhex("abcdef0100050006" + "07" * 8)
    assert row == {0: own, 1: CONNECTION_V1, 2: 0, 3: False, 4: 1, 6: own, 7: 1, 8: module}, row
    assert client.ask(8, {0: own, 1: CONNECTION_V1}, 25) == {0: 2**40, 1: 77, 2: 1500, 3: 1}
    assert client.refused(8, {0: own + 1, 1: CONNECTION_V1}, 26)[0] == ERRORS["not-found"]
    assert client.refused(8, {0: own, 1: bytes(16)}, 27)[0] == ERRORS["not-found"]
    wrong = client.refused(8, {0: own, 1: CONNECTION_V1[1:]}, 28)
    assert (wrong[0], wrong[3]) == (ERRORS["malformed"], 1), wrong
    return own


def control(client, session):
    row = {0: session, 1: CONNECTION_V1}
    assert client.ask(9, {**row, 2: 7}, 60) == {0: 1}
    assert client.ask(9, {**row, 2: 8, 3: b"\xab\xcd"}, 61) == {0: 1}
    refused = client.refused(9, {**row, 2: 9, 3: bytes(40)}, 62)
    assert (refused[0], refused[2]) == (ERRORS["failed"], 0xC0000010), refused
    wrong = client.refused(9, {**row, 2: 9, 3: bytes(41)}, 63)
    assert (wrong[0], wrong[3]) == (ERRORS["malformed"], 3), wrong
    assert client.refused(9, {0: session + 1, 1: CONNECTION_V1, 2: 7}, 64)[0] == ERRORS["not-found"]


def change(client):
    image = bytes(n * 7 % 251 for n in range(40_000))
    digest = hashlib.blake2s(image).digest()
    for spoil in (True, False):
        begun = client.ask(12, {0: len(image), 1: digest}, 30)
        upload, most = begun[0], begun[1]
        offset = 0
        while offset < len(image):
            chunk = image[offset : offset + most]
            if spoil and offset == 0:
                chunk = b"\xff" + chunk[1:]
            reply = client.ask(13, {0: upload, 1: offset, 2: chunk}, 31)
            offset += len(chunk)
            assert reply[0] == offset
        if spoil:
            assert client.refused(14, {0: upload}, 32)[0] == ERRORS["digest"]
    applied = client.ask(14, {0: upload, 1: 5}, 33)
    assert (applied[0], applied[2]) == (1, 5), applied
    assert client.refused(15, {0: 9}, 34)[0] == ERRORS["conflict"]
    assert client.ask(15, {0: 1}, 35) == {0: 1}
    read = b""
    while True:
        part = client.ask(11, {0: 1, 1: len(read)}, 36)
        assert part[0] == len(image)
        if not part[1]:
            break
        read += part[1]
    assert read == image


def follow(client):
    # Ten credits, and the responder has 25 events of each of two kinds for whoever subscribes, then for each credit.
    assert client.ask(20, {0: 10, 1: 5, 3: [40, 9, 60000]}, 40) == {}
    while sum(len(message[2][3]) for message in client.events) < 10:
        message = client.receive()
        assert message[0] == 257 and message[1] == 40, message
        client.events.append(message)
    client.request(21, {0: 40, 1: 1000})
    unsubscribed = client.ask(22, {0: 40}, 41)
    arrived, lost, before = [], {40: 0, 9: 0}, 0
    for message in client.events:
        assert message[1] == 40
        record = message[2]
        assert record[0] == before, record[0]
        for row in record.get(1, []):
            lost[row[0]] += row[1]
        arrived += record[3]
        before += len(record[3])
    for row in unsubscribed[1]:
        lost[row[0]] += row[1]
    assert unsubscribed[0] == before == 10 + 50, unsubscribed
    assert lost == {40: 20, 9: 20}, lost
    verdict = next(event for event in arrived if event[0] == 40)
    # connection, verdict, rule, generation, direction, protocol, local, port, remote, port, reauthorized
    assert verdict[2:] == [5, 1, 3, 2, 1, 17, bytes([10, 0, 0, 1]), 53, bytes(15) + b"\x01", 5353, False], verdict
    fault = next(event for event in arrived if event[0] == 9)
    assert fault[2:] == ["opération", 0xC000009A], fault


def change_keys(client):
    """So many messages that the keys of both directions change."""
    while client.sent < REKEY_INTERVAL + 10:
        client.request(2, {})
    while client.received < REKEY_INTERVAL + 10:
        for ident in range(100):
            client.request(2, {}, ident)
        for ident in range(100):
            assert client.answer(2, ident)[0] == 133_800_000_000_000_000


def gather(client, number, ident):
    """All parts of a long list."""
    rows, start = [], None
    while True:
        part = client.ask(number, {} if start is None else {0: start}, ident)
        rows += part[{10: 6}.get(number, 0)]
        start = part.get({10: 7}.get(number, 1))
        if start is None:
            return rows


def drive(client):
    """A driver that has a policy and has seen traffic: all that can be asked for, whatever it has seen."""
    welcome = client.ask(1, {0: 7, 1: "client.py"}, 1)
    assert welcome[0] == 1 and welcome[4] == 1, welcome
    status = client.ask(3, {}, 2)
    assert status[3] is True and status[4] == 1 and status[5] >= 1 and len(status[7]) == 32, status
    assert client.ask(2, {}, 3)[0] >= status[2] >= status[1]
    client.request(2, {})
    assert client.refused(99, {}, 4)[0] == ERRORS["unknown-request"]
    wrong = client.refused(1, {0: "one"}, 5)
    assert (wrong[0], wrong[3]) == (ERRORS["malformed"], 0), wrong

    counters = {row[0]: row[1] for row in gather(client, 4, 6)}
    assert counters["connections.tracked"] == status[10], counters
    sessions = gather(client, 5, 7)
    assert any(row[0] == welcome[2] and row[6] == welcome[3] for row in sessions), sessions
    extensions = gather(client, 6, 8)
    assert all(len(row[1]) == 16 and row[7] in (0, 1, 2) for row in extensions)
    assert all((row[0] == 0) == (row[7] == 0) for row in extensions), extensions
    settings = gather(client, 18, 52)
    assert settings and all(row[1] in (0, 1, 2) and row[2] in (False, True) for row in settings), settings
    asked = {0: welcome[2], 1: CONNECTION_V1}
    if any(row[0] == welcome[2] and row[1] == CONNECTION_V1 and row[2] == 0 for row in extensions):
        sample = client.ask(8, asked, 50)
        assert sample[0] > 0 and sample[1] > 0 and sample[3] in (0, 1, 2), sample
    else:
        assert client.refused(8, asked, 50)[0] == ERRORS["not-found"]
    assert client.refused(9, {0: welcome[2], 1: bytes(16), 2: 1}, 51)[0] == ERRORS["not-found"]
    connections = gather(client, 7, 9)
    assert len(connections) == status[10] == len({row[0] for row in connections})
    assert all(len(row[3]) in (4, 16) and len(row[3]) == len(row[5]) for row in connections)
    rules = gather(client, 10, 10)
    assert [row[0] for row in rules] == list(range(status[6]))

    # The policy comes down, and goes up again.
    image = b""
    while True:
        part = client.ask(11, {0: status[5], 1: len(image)}, 11)
        if not part[1]:
            break
        image += part[1]
    assert len(image) == part[0] and hashlib.blake2s(image).digest() == status[7]
    for spoil in (True, False):
        begun = client.ask(12, {0: len(image), 1: status[7]}, 12)
        # All chunks are under way at once.
        offsets = range(0, len(image), begun[1])
        for offset in offsets:
            chunk = image[offset : offset + begun[1]]
            if spoil and offset == 0:
                chunk = b"\xff" + chunk[1:]
            client.request(13, {0: begun[0], 1: offset, 2: chunk}, 1000 + offset)
        for offset in offsets:
            client.answer(13, 1000 + offset)
        if spoil:
            assert client.refused(14, {0: begun[0]}, 13)[0] == ERRORS["digest"]
    applied = client.ask(14, {0: begun[0], 1: 60, 2: status[5]}, 14)
    assert (applied[0], applied[1], applied[2]) == (status[5] + 1, status[6], 60), applied
    assert client.ask(3, {}, 15)[4] == 2
    assert client.ask(15, {0: applied[0]}, 16) == {0: applied[0]}
    assert client.ask(3, {}, 17)[4] == 1

    row = connections[0]
    told = client.ask(17, {0: row[1], 1: row[2], 2: row[3], 3: row[4], 4: row[5], 5: row[6]}, 18)
    assert told[2] == applied[0] and (told.get(1) is None or told[3][-1][2] == 0), told

    # All that is open already, with less credit than there is of it.
    assert client.ask(20, {0: 2, 3: [41], 4: True}, 40) == {}
    opened = []
    while True:
        message = client.events.pop(0) if client.events else client.receive()
        assert message[0] == 257 and message[1] == 40, message
        record = message[2]
        assert record[0] == len(opened) and 1 not in record, record
        opened += record[3]
        if record.get(2):
            break
        if record[3]:
            client.request(21, {0: 40, 1: len(record[3])})
    assert {event[2] for event in opened} == {row[0] for row in connections}, opened
    assert client.ask(22, {0: 40}, 41)[0] == len(opened)


def main():
    host, port, private, driver, role = sys.argv[1:]
    client = Client(host, int(port), bytes.fromhex(private), bytes.fromhex(driver))
    if role == "stranger":
        raise AssertionError("a stranger was let in")
    if role == "driver":
        drive(client)
        print("done", role)
        return
    session = look(client, {"observer": 0, "operator": 1}[role])
    if role == "observer":
        assert client.refused(12, {0: 1, 1: bytes(32)}, 50)[0] == ERRORS["not-permitted"]
        asked = {0: session, 1: CONNECTION_V1, 2: 7}
        assert client.refused(9, asked, 51)[0] == ERRORS["not-permitted"]
    else:
        control(client, session)
        change(client)
        follow(client)
        change_keys(client)
    print("done", role)


try:
    main()
except (EOFError, ConnectionError):
    print("the driver has closed the connection")
    sys.exit(3)
