"""The spaces and the memory of an adopted policy, as far as the file says them; names are numbered at first."""

import re
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from export.adopt.deploy import Deploy
from export.adopt.layout import Layout, Slot
from export.adopt.reading import Reading, Said
from export.errors import AdoptionRefused, OptionInvalid
from export.spec import (
    ActionSpace,
    Array,
    Box,
    Dict,
    Discrete,
    Entry,
    Factor,
    Field,
    Fields,
    Memory,
    MultiDiscrete,
    ObservationSpace,
)
from export.spec.spaces import Dtype

# More numbers than this are one array without names.
_NAMED = 4096
# So many choices are listed in a message.
_MOST_SIZES = 64
# What we take for what the file takes; a cast stands between the two where they differ.
_DTYPES: Mapping[str, Dtype] = {
    "float16": "float32",
    "float32": "float32",
    "float64": "float64",
    "int32": "int64",
    "int64": "int64",
    "uint8": "uint8",
}


def observation_of(reading: Reading, layout: Layout, deploy: Deploy | None) -> ObservationSpace:
    """Give one part for each observation of the file; raises AdoptionRefused for a dtype that cannot be served."""
    if deploy is not None:
        terms = deploy.preparation.terms
        named = [(term, at) for term in terms for at in range(term.width)]
        # The network's own last answer, which is not what was carried out.
        units = {"last_action": "before scale and offset"}
        fields = tuple(Field(name=f"{_word(t.name)}_{at}", unit=units.get(t.name, "")) for t, at in named)
        return Fields(fields=fields)
    slots = [layout.slots[name] for name in reading.observations]
    if len(slots) == 1:
        return _part(slots[0], "obs")
    return Dict(entries=tuple(Entry(key=_word(slot.name), space=_part(slot, _word(slot.name))) for slot in slots))


def action_of(reading: Reading, layout: Layout, said: Said, deploy: Deploy | None) -> ActionSpace:
    """Give the action space; raises OptionInvalid or AdoptionRefused where sizes or bounds do not fit the head."""
    first = next(iter(reading.heads.values()))
    widths = [layout.widths[name] for name in first.names]
    width = layout.width(first)
    if reading.head == "gaussian":
        _refuse_other_std(reading, layout, width)
        low = _bounds("--action-low", said.action_low, deploy.low if deploy is not None else reading.low, width)
        high = _bounds("--action-high", said.action_high, deploy.high if deploy is not None else reading.high, width)
        names = deploy.names if deploy is not None and deploy.names else [f"action_{at}" for at in range(width)]
        named = zip(names, low, high, strict=True)
        try:
            return Box(fields=tuple(Field(name=name, low=a, high=b) for name, a, b in named))
        except ValidationError as error:
            msg = f"--action-low and --action-high do not go together: {error.errors(include_url=False)[0]['msg']}"
            raise OptionInvalid(msg) from error
    if first.form == "choices":
        return _choices_of(_told_sizes(reading, said), width)
    sizes = said.sizes or reading.sizes or (tuple(widths) if len(widths) > 1 else (width,))
    if sum(sizes) != width or min(sizes) < 1:
        msg = f"the head has {width} numbers, expected {' + '.join(map(str, sizes))}, the sizes of the choices"
        raise OptionInvalid(msg) if said.sizes else AdoptionRefused(msg)
    _refuse_stacked(reading, first.names, layout, sizes)
    if len(sizes) > 1 and reading.head == "q_values":
        msg = f"the head is 'q_values', expected 'logits' for several choices at once ({' + '.join(map(str, sizes))})"
        raise OptionInvalid(msg)
    return _numbered(sizes)


def _refuse_stacked(reading: Reading, names: Sequence[str], layout: Layout, sizes: tuple[int, ...]) -> None:
    """Refuse scores on several axes: laid flat, each outcome of a distribution would be an action of its own.

    ``[choices, of each]`` is right where people said so many choices of that size.
    """
    for name in names:
        axes = layout.axes[name]
        if len(axes) < 2 or (len(axes) == 2 and sizes == axes[1:] * axes[0]):
            continue
        shown = " x ".join(map(str, axes))
        alike = len(axes) == 2 and axes[0] <= _MOST_SIZES and reading.head == "logits"
        listed = ",".join([str(axes[1])] * axes[0])
        several = f"; for {axes[0]} choices of {axes[1]} each say --factors {listed}" if alike else ""
        msg = (
            f"the output {name!r} has {shown} numbers a row, expected one axis with a number for each action: outcomes "
            "of a distribution (C51, QR-DQN) are summed up to the value of each action inside the graph before it is "
            f"exported{several}"
        )
        raise OptionInvalid(msg)


def _told_sizes(reading: Reading, said: Said) -> tuple[int, ...]:
    """Say how many choices each factor has of a file that gives the one it chose: it does not say itself.

    Names may tell (``--actions A,B,C``), those of several factors with their choices (``fan=off/on,pump=a/b/c``).
    """
    named = [word.partition("=")[2] for word in said.actions]
    spelt = len(named) > 1 and all(named)
    counted = tuple(len(choices.split("/")) for choices in named) if spelt else (len(named),) if named else ()
    return said.sizes or reading.sizes or counted


def _choices_of(sizes: tuple[int, ...], width: int) -> ActionSpace:
    if not sizes:
        msg = "--head action: the file does not say how many actions there are, say --actions A,B,... or --factors N,M"
        raise OptionInvalid(msg)
    if width not in (len(sizes), sum(sizes)):
        expected = f"{len(sizes)}, one for each choice, or {sum(sizes)}, a one among zeros for each"
        msg = f"--head action: the output has {width} numbers a row, expected {expected} (--actions, --factors)"
        raise OptionInvalid(msg)
    return _numbered(sizes)


def _numbered(sizes: tuple[int, ...]) -> ActionSpace:
    """Give choices of these sizes, with numbers for names."""
    if len(sizes) == 1:
        return Discrete(names=tuple(f"action_{at}" for at in range(sizes[0])))
    factors = enumerate(sizes)
    return MultiDiscrete(
        factors=tuple(Factor(name=f"factor_{at}", names=tuple(f"choice_{i}" for i in range(n))) for at, n in factors)
    )


def _refuse_other_std(reading: Reading, layout: Layout, width: int) -> None:
    std = reading.heads["std"]
    if std.names and layout.width(std) != width:
        names = [", ".join(reading.heads[side].names) for side in ("mean", "std")]
        msg = f"the std ({names[1]}) has {layout.width(std)} numbers, expected {width}, as the mean ({names[0]}) has"
        raise OptionInvalid(msg)


def memory_of(reading: Reading, layout: Layout, deploy: Deploy | None) -> tuple[Memory, ...]:
    """Give what is carried: the file's own states, then the history of observations."""
    found = []
    for one in reading.memory:
        slot = layout.slots[one.source]
        if not slot.dtype.startswith("float") or not slot.shape:
            msg = f"the memory {one.source!r} is {slot.dtype}{list(slot.shape)} a row, expected real numbers on an axis"
            raise AdoptionRefused(msg)
        meaning = f"{one.source} and {one.result} of the file"
        found.append(Memory(name=_word(one.name), shape=slot.shape, meaning=meaning))
    return (*found, *(deploy.preparation.memory if deploy is not None else ()))


def _part(slot: Slot, prefix: str) -> Fields | Array:
    dtype = _DTYPES.get(slot.dtype)
    if dtype is None or not slot.shape or len(slot.shape) > 4:
        kind = f"{slot.dtype}{list(slot.shape)}"
        msg = f"the observation {slot.name!r} is {kind} a row, expected one to four axes of {', '.join(_DTYPES)}"
        raise AdoptionRefused(msg)
    if len(slot.shape) == 1 and slot.shape[0] <= _NAMED:
        return Fields(fields=tuple(Field(name=f"{prefix}_{at}") for at in range(slot.shape[0])), dtype=dtype)
    return Array(shape=slot.shape, dtype=dtype)


def _bounds(
    option: str, told: tuple[float | None, ...], known: tuple[float | None, ...], width: int
) -> tuple[float | None, ...]:
    """Give a bound for each number: what people say before what the file says; one stands for all."""
    bounds = told or known
    if len(bounds) == 1:
        return bounds * width
    if len(bounds) != width:
        msg = f"{option} has {len(bounds)} entries, expected {width}, one for each number of the action, or one for all"
        raise OptionInvalid(msg)
    return bounds


def _word(name: str) -> str:
    """Make a name that may stand in rules."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)[:56] or "_"
    return f"_{plain}" if plain[0].isdigit() else plain
