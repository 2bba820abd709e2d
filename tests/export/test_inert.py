"""Behaviour of the pickle reader that runs nothing: every opcode, and every way to make one of them dangerous."""

import collections
import contextlib
import pickle
import pickletools
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from export.errors import CheckpointRefused
from export.inert import BYTES_CAP, DEPTH_CAP, Inert, Named, read_inert
from export.pickle_machine import OPCODES_CAP, Machine
from tests.export.gadgets import Gadget, gadgets

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
# Events that a file could only cause by running something.
EVENTS = ("open", "os.system", "subprocess.Popen", "exec", "compile", "import", "pickle.find_class", "socket.connect")


class Watched:
    """Collects what the interpreter reports while it is on; Python has no way to take an audit hook off again."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def __repr__(self) -> str:
        return f"<Watched {'on' if self.on else 'off'}: {self.seen}>"

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event.startswith(EVENTS):
            self.seen.append(f"{event} {arguments}"[:200])


WATCHED = Watched()


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Everything that is run, opened or imported within the block."""
    WATCHED.seen, WATCHED.on = [], True
    try:
        yield WATCHED.seen
    finally:
        WATCHED.on = False


class Thing:
    """An object with a state of its own."""

    def __init__(self) -> None:
        self.number = 3


class Slotted:
    """An object whose state is a pair."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 3


def test_the_reader_knows_every_opcode_there_is() -> None:
    """A new protocol of Python's would be noticed here: all opcodes are read but those that reach outside."""
    outside = {"EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"}

    assert {opcode.name for opcode in pickletools.opcodes} - outside == Machine.opcodes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back_as_they_were(protocol: int) -> None:
    """Numbers, texts, bytes and containers of all kinds are read at every protocol."""
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 70000, 2**31, -(2**40), 2**200, 0.5, float("inf")],
        "texts": ["", "ü", "a\nb", "x" * 300],
        "more": [True, False, None, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "shared": [shared, shared],
        3: {"deeper": {}},
    }

    assert read_inert(pickle.dumps(value, protocol), "it") == value


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_and_sets_come_back_as_they_were(protocol: int) -> None:
    """Where the protocol has opcodes for them, bytes and (from 4 on) sets are read as such."""
    value = [b"", b"abc", b"x" * 300] if protocol == 3 else [b"abc", {1, 2}, frozenset({3})]

    assert read_inert(pickle.dumps(value, protocol), "it") == value


def test_a_bytearray_becomes_bytes() -> None:
    """What protocol 5 writes of a bytearray cannot be changed afterwards."""
    assert read_inert(pickle.dumps(bytearray(b"abc"), 5), "it") == b"abc"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", [Thing, Slotted])
def test_an_object_is_its_name_and_its_state(protocol: int, kind: type) -> None:
    """Whatever opcodes make an object, what comes out is its class by name and its state, never the object."""
    if kind is Slotted and protocol < 2:
        pytest.skip("pickle writes no slots below protocol 2")

    found = read_inert(pickle.dumps(kind(), protocol), "it")

    assert isinstance(found, Inert)
    assert found.of == Named(__name__, kind.__name__)
    assert found.state in ({"number": 3}, (None, {"number": 3}))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dict_keeps_its_entries(protocol: int) -> None:
    """Dicts of other classes are objects whose entries were set."""
    found = read_inert(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol), "it")

    assert isinstance(found, Inert)
    assert str(found.of) == "collections.OrderedDict"
    assert found.entries == {"a": 1, "b": 2}


def test_the_old_opcodes_for_objects_make_none() -> None:
    """INST, OBJ and the dictionary and list opcodes of protocol 0 are read."""
    inst = read_inert(b"(S'a'\nios\nsystem\n.", "it")
    obj = read_inert(b"(cos\nsystem\nS'a'\no.", "it")
    old = read_inert(b"(dS'k'\n(lI1\nasI01\nI02\n0\x85.", "it")

    assert isinstance(inst, Inert)
    assert isinstance(obj, Inert)
    assert (inst.of, inst.args) == (obj.of, obj.args) == (Named("os", "system"), ("a",))
    assert old == (True,)


@pytest.mark.parametrize("name", gadgets(""))
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_gadget_runs_nothing(name: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of anything at all are records: nothing is imported, opened or run, and no file appears."""
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(gadgets("canary")[name], protocol)

    with watched() as seen:
        found = read_inert(data, "it")

    assert isinstance(found, Inert)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


def test_a_state_is_never_given_to_an_object() -> None:
    """BUILD keeps the state: no ``__setstate__``, no attribute of a class or module is ever set."""
    with watched() as seen:
        found = read_inert(b"cos\nsystem\n(tR(dS'__setstate__'\ncos\nsystem\nsb.", "it")

    assert isinstance(found, Inert)
    assert found.state == {"__setstate__": Named("os", "system")}
    assert seen == []


def test_the_watch_sees_what_a_real_unpickler_does(tmp_path: Path) -> None:
    """The proof above would notice: the same kind of file, really unpickled, opens its canary."""
    canary = tmp_path / "canary"
    data = pickle.dumps(Gadget(open, str(canary), "w"))

    with watched() as seen:
        pickle.loads(data).close()  # noqa: S301

    assert canary.exists()
    assert any(str(canary) in event for event in seen)


REFUSED = {
    "persistent id": b"Pname\n.",
    "binary persistent id": b"S'name'\nQ.",
    "extension 1": b"\x82\x01.",
    "extension 2": b"\x83\x01\x00.",
    "extension 4": b"\x84\x01\x00\x00\x00.",
    "buffer from outside": b"\x80\x05\x97.",
    "read-only buffer from outside": b"\x80\x05\x97\x98.",
    "protocol of the future": b"\x80\xc8N.",
    "empty": b"",
    "no stop": b"N",
    "no value": b".",
    "pop of nothing": b"0.",
    "memory that is not there": b"h\x07.",
    "memory below zero": b"Np-1\n.",
    "memory at an absurd place": b"Np99999999999999999999\n.",
    "mark without a start": b"t.",
    "unknown opcode": b"\xff.",
    "bytes longer than the file": b"\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "text longer than the file": b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"a.",
    "bytearray longer than the file": b"\x96" + struct.pack("<Q", 2**64 - 1) + b"a.",
    "text of 4 GB": b"X\xff\xff\xff\xffa.",
    "number longer than the file": b"\x8b\xff\xff\xff\x7f1.",
    "number of negative length": b"\x8b\xff\xff\xff\xff1.",
    "decimal number without end": b"L" + b"9" * 100_000 + b"L\n.",
    "half a number": b"J\x01\x02",
    "broken text": b"X\x02\x00\x00\x00\xff\xfe.",
    "broken escape": b"S'\\x'\n.",
    "text without quotes": b"Sabc\n.",
    "append to a number": b"I1\nI2\na.",
    "items for a number": b"I1\n(I2\ne.",
    "items of a list for a set": b"]\x94(I2\n\x90.",
    "key of a list": b"]I1\nI2\ns.",
    "key without a value": b"}(I1\nu.",
    "list as a key": b"}]I1\ns.",
    "dict as a member of a set": b"\x8f(}\x90.",
    "crafted numbers as keys": b"}\x8a\x09" + (2**61 - 1).to_bytes(9, "little") + b"I1\ns.",
    "class named by numbers": b"I1\nI2\n\x93.",
    "state for a list": b"]}b.",
    "state for a class": b"cos\nsystem\n}b.",
    "list in itself": b"]\x940h\x00h\x00a.".replace(b"0h\x00", b""),
    "dict in itself": b"}\x94S'k'\nh\x00s.",
    "tuple in itself": b"]\x94h\x00\x85\x94a.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_pickle_that_is_not_whole_in_itself_is_refused(name: str) -> None:
    """What reaches outside, lies about sizes, contains itself or is damaged raises the one error there is."""
    with watched() as seen, pytest.raises(CheckpointRefused, match="the file"):
        read_inert(REFUSED[name], "the file")
    assert seen == []


def test_a_deep_pickle_is_refused_and_ends_nothing() -> None:
    """Half a million nested tuples, alone and as a key, neither overflow a stack nor come out."""
    deep = b"N" + b"\x85" * 500_000

    for data in (deep + b".", b"}" + deep + b"Ns.", b"]" * 100_000 + b"a" * 99_999 + b"."):
        with pytest.raises(CheckpointRefused):
            read_inert(data, "the file")


def test_depth_counts_over_shared_parts() -> None:
    """A chain that is put together of shared pieces is as deep as it is, however it was written."""
    half = b"]" + b"\x85" * (DEPTH_CAP // 2) + b"\x94"
    whole = half + b"h\x00" + b"\x85" * DEPTH_CAP + b"\x86."

    assert read_inert(half + b"h\x00\x86.", "it")
    with pytest.raises(CheckpointRefused, match="deeper"):
        read_inert(whole, "it")


def test_a_billion_laughs_stay_few_objects() -> None:
    """Lists that hold the one before ten times over are references: small, read at once, and refused only for depth."""
    lists = b"]\x94" + b"".join(
        b"](" + b"h" + bytes([at]) * 1 + (b"h" + bytes([at])) * 9 + b"e\x94" for at in range(40)
    )

    assert isinstance(read_inert(lists + b".", "it"), list)


def test_a_pickle_of_too_many_opcodes_is_refused() -> None:
    """Work is bounded by a count of opcodes."""
    with pytest.raises(CheckpointRefused, match="opcodes"):
        read_inert(b"N0" * (OPCODES_CAP // 2 + 1) + b"N.", "the file")


def test_a_pickle_of_too_many_bytes_is_refused() -> None:
    """Size is bounded before anything is read."""
    with pytest.raises(CheckpointRefused, match="bytes"):
        read_inert(bytes(BYTES_CAP + 1), "the file")


def test_records_have_a_readable_form() -> None:
    """Named and Inert say what they stand for, and never go into what they hold."""
    found = read_inert(b"cos\nsystem\n(S'a'\ntR(tR.", "it")

    assert repr(found) == "<Inert result of a call>"
    assert str(Named("os", "system")) == "os.system"
    assert repr(Machine("it")) == "<Machine it: 0 on the stack, 0 remembered>"
