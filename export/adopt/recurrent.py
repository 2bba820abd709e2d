"""What a file wants back at the next step of an episode, found by the names of its inputs and outputs, or said."""

import re
from collections.abc import Iterator, Sequence

from export.adopt.reading import Carried, Said
from export.errors import OptionInvalid

# How the names of a state end, as it goes in and as it comes out, whatever stands before.
_ENDS = (("_in", "_out"), ("_ins", "_outs"), (".in", ".out"), ("_0", "_n"), ("_prev", "_next"))
# The same for names that are those of a state of a recurrent network, and for no others.
_STATE = re.compile(r"(.*[_.])?(h|c|hx|cx|hxs|hidden|cell|rnn|lstm|gru|memory|carry|recurrent)([_.]states?)?")
_ENDS_OF_STATES = (("", "_out"), ("", "_n"), ("", "_next"), ("0", "n"), ("", "n"))
_BEGINNINGS_OF_STATES = (("", "new_"), ("", "next_"), ("prev_", "next_"), ("in_", "out_"))


def recurrent(inputs: Sequence[str], outputs: Sequence[str], said: Said) -> tuple[Carried, ...]:
    """Give what is carried along: the pairs of ``--memory``, then those that their names tell.

    An input that was called an observation is none, nor is an output that was called the head. Raises OptionInvalid
    where a named tensor is not there, and where one could go with several.
    """
    told = tuple(_told(inputs, outputs, source, result) for source, result in said.memory)
    sources = {one.source for one in told} | set(said.observations)
    results = {one.result for one in told} | set(said.outputs)
    left = [name for name in outputs if name not in results]
    return (*told, *pairs([name for name in inputs if name not in sources], left))


def pairs(inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Carried, ...]:
    """Pair what goes in with what comes out by its name: ``x_in`` and ``x_out``, ``h_0`` and ``h_n``, and so on.

    Raises OptionInvalid where one could go with several.
    """
    found = []
    for source in inputs:
        fitting = {result: stem for stem, result in _matches(source) if result in outputs}
        if len(fitting) > 1:
            _refuse_several(f"the input {source!r}", "outputs", source, tuple(fitting))
        found += [Carried(_word(stem), source, result) for result, stem in fitting.items()]
    for one in found:
        others = [other.source for other in found if other.result == one.result]
        if len(others) > 1:
            _refuse_several(f"the output {one.result!r}", "inputs", one.source, tuple(others))
    return tuple(found)


def _matches(source: str) -> Iterator[tuple[str, str]]:
    """Give the stems of a name with the names that its output may have."""
    for end_in, end_out in _ENDS:
        if source.endswith(end_in):
            stem = source.removesuffix(end_in)
            yield stem, stem + end_out
    for end_in, end_out in _ENDS_OF_STATES:
        stem = source.removesuffix(end_in)
        if source.endswith(end_in) and _STATE.fullmatch(stem):
            yield stem, stem + end_out
    for first_in, first_out in _BEGINNINGS_OF_STATES:
        stem = source.removeprefix(first_in)
        if source.startswith(first_in) and _STATE.fullmatch(stem):
            yield stem, first_out + stem


def _told(inputs: Sequence[str], outputs: Sequence[str], source: str, result: str) -> Carried:
    for name, known, what in ((source, inputs, "inputs"), (result, outputs, "outputs")):
        if name not in known:
            msg = f"--memory has {source}={result}, expected {name!r} among the {what} {', '.join(known)}"
            raise OptionInvalid(msg)
    return Carried(_word(source), source, result)


def _refuse_several(what: str, others: str, source: str, names: Sequence[str]) -> None:
    msg = f"{what} could go with the {others} {', '.join(names)}: say which with --memory {source}=OUTPUT"
    raise OptionInvalid(msg)


def _word(stem: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in stem.removeprefix("memory."))
