"""Behaviour of arrays read from inert pickles: NumPy's own numbers, and nothing of a size that is not there."""

import collections
import pickle

import numpy as np
import pytest

from export.errors import CheckpointRefused
from export.inert import Inert, Named, read_inert
from export.inert_arrays import array_in, is_array, kind_of, mapping_of, number_of

DTYPES = "b1 i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8 >f4 >i8".split()


def dtype(text: object = "f4", state: object = (3, "<", None, None, None, -1, -1, 0)) -> Inert:
    """Give a type as a pickle tells it."""
    return Inert(Named("numpy", "dtype"), (text, False, True), state=state)


def buffer(data: object, shape: object, kind: object = None, order: str = "C") -> Inert:
    """Give an array as protocol 5 tells it."""
    return Inert(Named("numpy._core.numeric", "_frombuffer"), (data, kind or dtype(), shape, order))


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_back_bit_for_bit(kind: str, protocol: int) -> None:
    """Every type of number, byte order and layout is read at every protocol."""
    flat = np.random.default_rng(0).integers(0, 2, 24).astype(kind)
    arrays = [flat, flat.reshape(2, 3, 4), np.asfortranarray(flat.reshape(4, 6)), flat[:1].reshape(()), flat[:0]]
    arrays.append(flat.reshape(4, 6)[:, ::2])

    found = read_inert(pickle.dumps(arrays, protocol), "it")

    assert isinstance(found, list)
    for expected, value in zip(arrays, found, strict=True):
        array = array_in(value, "it")
        np.testing.assert_array_equal(array, expected)
        assert (array.dtype, array.shape) == (expected.dtype.newbyteorder("="), expected.shape)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_come_back(protocol: int) -> None:
    """Plain numbers and NumPy's own are the same number."""
    found = read_inert(pickle.dumps([1, 0.5, True, np.float32(0.5), np.int64(7), np.array([3.0])], protocol), "it")

    assert isinstance(found, list)
    assert [number_of(value, "it") for value in found] == [1, 0.5, 1, 0.5, 7, 3]


def test_dicts_of_other_classes_are_dicts() -> None:
    """OrderedDict and defaultdict are read like a dict, anything else is not."""
    ordered = read_inert(pickle.dumps(collections.OrderedDict(a=1)), "it")
    default = read_inert(pickle.dumps(collections.defaultdict(list, a=1)), "it")

    assert mapping_of(ordered, "it") == mapping_of(default, "it") == {"a": 1}
    with pytest.raises(CheckpointRefused, match="it is a list, expected a dict"):
        mapping_of([], "it")


REFUSED = {
    "objects": read_inert(pickle.dumps(np.array([None])), "it"),
    "records": read_inert(pickle.dumps(np.zeros(2, "f4,f4")), "it"),
    "texts": read_inert(pickle.dumps(np.array(["a"])), "it"),
    "dates": read_inert(pickle.dumps(np.array(["2026-01-01"], "M8[D]")), "it"),
    "complex numbers": read_inert(pickle.dumps(np.zeros(2, "c8")), "it"),
    "a giant shape": buffer(b"1234", (1 << 39, 1 << 39)),
    "a shape beyond sizes": buffer(b"1234", (1 << 70,)),
    "a negative shape": buffer(b"1234", (-1,)),
    "a shape of texts": buffer(b"1234", ("1",)),
    "a shape without end": buffer(b"1234", (1,) * 40),
    "no shape": buffer(b"1234", None),
    "too few bytes": buffer(b"123", (1,)),
    "no bytes": buffer([1], (1,)),
    "a text beyond bytes": buffer("\u20ac", (1,)),
    "bytes out of a call": buffer(Inert(Named("os", "urandom"), (4,)), (1,)),
    "bytes in another code": buffer(Inert(Named("_codecs", "encode"), ("abcd", "utf-16")), (1,)),
    "a type that is a class": buffer(b"1234", (1,), Named("os", "system")),
    "a type of a shape": buffer(b"1234", (1,), dtype("(2,)f2")),
    "a type with a name": buffer(b"1234", (1,), dtype("f4, i4")),
    "no type": buffer(b"1234", (1,), dtype("")),
    "a type that is a number": buffer(b"1234", (1,), dtype(4)),
    "a type with fields": buffer(b"1234", (1,), dtype(state=(3, "<", None, ("a",), {}, 4, 1, 0))),
    "a type of a subarray": buffer(b"1234", (1,), dtype(state=(3, "<", (1, 2), None, None, 4, 1, 0))),
    "an unknown byte order": buffer(b"1234", (1,), dtype(state=(3, "?", None, None, None, 4, 1, 0))),
    "no state": Inert(Named("numpy.core.multiarray", "_reconstruct"), ()),
    "a call of something else": Inert(Named("numpy", "load"), ("canary",)),
    "no array": [1.0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_array_of_numbers_is_refused(name: str) -> None:
    """A type with more than numbers in it, or a size that is not there, is named and refused."""
    with pytest.raises(CheckpointRefused, match="the weight"):
        array_in(REFUSED[name], "the weight")


def test_values_are_named_for_people() -> None:
    """Messages say what was found, without going into it."""
    assert kind_of(Named("os", "system")) == "the name os.system"
    assert kind_of(Inert(Named("os", "system"), ())) == "an object of os.system"
    assert kind_of(Inert(Inert(Named("a", "b"), ()), ())) == "an object of what a call gave"
    assert kind_of(3) == "a int"
    assert not is_array(3)
