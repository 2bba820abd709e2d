"""The dialects of ONNX policies that people have, how each is told and read: one line each in the table at the end."""

from collections.abc import Callable
from typing import NamedTuple

from export.adopt.mlagents import is_mlagents, read_mlagents
from export.adopt.original import Original
from export.adopt.reading import Carried, Reading, Said, asked_head, means
from export.adopt.recurrent import pairs, recurrent
from export.adopt.walk import random_behind
from export.errors import AdoptionRefused, OptionInvalid

_OBSERVATION = frozenset({"obs", "actor_obs", "observation", "observations"})
_ACTION = frozenset({"action", "actions"})
_MASK = frozenset({"action_mask", "action_masks"})


class Dialect(NamedTuple):
    """A way of naming tensors: whether a file follows it, and what its tensors then mean."""

    name: str
    fits: Callable[[Original], bool]
    read: Callable[[Original, Said], Reading]
    # Whether its answers are means, so that a file of which --head says otherwise does not follow it.
    means: bool = False


def is_godot(original: Original) -> bool:
    """Say whether the names are those of Godot RL's exporter."""
    return "state_ins" in original.inputs and "output" in original.outputs


def read_godot(original: Original, said: Said) -> Reading:
    """Read Godot RL: logits of all factors, or actions of SAC; the file does not say which."""
    head, heads = asked_head(said, ("output",), "Godot RL")
    # The state is a dummy of the exporter's unless the answer depends on it.
    used = "state_ins" in original.behind(["output"])
    return Reading(
        dialect="Godot RL",
        observations=said.observations or tuple(name for name in original.inputs if name != "state_ins"),
        head=head,
        heads=heads,
        squash=said.squash or "none",
        memory=pairs(["state_ins"], original.outputs) if used else (),
    )


def is_playground(original: Original) -> bool:
    """Say whether the names are those of mujoco_playground's exporter."""
    return "continuous_actions" in original.outputs and bool(_OBSERVATION & set(original.inputs))


def read_playground(original: Original, said: Said) -> Reading:
    """Read mujoco_playground: the means of actions in [-1, 1]."""
    memory = recurrent(list(original.inputs), original.outputs, said)
    return Reading(
        dialect="mujoco_playground",
        observations=said.observations or _unpaired(original, memory),
        head="gaussian",
        heads=means("continuous_actions"),
        squash=said.squash or "none",
        low=(-1.0,),
        high=(1.0,),
        memory=memory,
        inside=("clip to [-1, 1]",),
    )


def is_rsl(original: Original) -> bool:
    """Say whether the names are those of rsl_rl and Isaac Lab."""
    named = len(_ACTION & set(original.outputs)) == 1
    return named and bool(_OBSERVATION & set(original.inputs))


def read_rsl(original: Original, said: Said) -> Reading:
    """Read rsl_rl: the mean is what is carried out, without bounds of its own."""
    output = next(name for name in original.outputs if name in _ACTION)
    memory = recurrent(list(original.inputs), original.outputs, said)
    return Reading(
        dialect="rsl_rl",
        observations=said.observations or _unpaired(original, memory),
        head="gaussian",
        heads=means(output),
        squash=said.squash or "none",
        memory=memory,
    )


def read_generic(original: Original, said: Said) -> Reading:
    """Read a file of no known dialect: what is not said has to be the only thing that it can be."""
    memory = recurrent(list(original.inputs), original.outputs, said)
    outputs = said.outputs or (_only_output(original, {one.result for one in memory}),)
    for at, output in enumerate(outputs):
        # A tensor inside the graph may be named too: scores, where what comes out is the action.
        if output not in {*original.outputs, *original.makers} or output in outputs[:at]:
            msg = f"--output-name is {output!r}, expected one of the outputs {', '.join(original.outputs)}, each once"
            raise OptionInvalid(msg)
    head, heads = asked_head(said, outputs, "the file follows no dialect that is known")
    mask = next((name for name in original.inputs if name in _MASK and head != "gaussian"), "")
    return Reading(
        dialect="no dialect",
        observations=said.observations or tuple(name for name in _unpaired(original, memory) if name != mask),
        mask=mask,
        head=head,
        heads=heads,
        squash=said.squash or "none",
        memory=memory,
    )


def _unpaired(original: Original, memory: tuple[Carried, ...]) -> tuple[str, ...]:
    """Name the inputs that are not handed back by an output."""
    carried = {one.source for one in memory}
    return tuple(name for name in original.inputs if name not in carried)


def _only_output(original: Original, carried: set[str]) -> str:
    left = [name for name in original.outputs if name not in {*carried, *original.constant_outputs()}]
    if len(left) != 1:
        names = ", ".join(left) or "none that an input can change"
        msg = f"the outputs that could be the head are {names}: say which with --output-name (several as A,B)"
        raise OptionInvalid(msg)
    return left[0]


# In order: the first that fits reads the file; one that none fits is read as people say.
DIALECTS = (
    Dialect("Unity ML-Agents", is_mlagents, read_mlagents),
    Dialect("Godot RL", is_godot, read_godot),
    Dialect("mujoco_playground", is_playground, read_playground, means=True),
    Dialect("rsl_rl", is_rsl, read_rsl, means=True),
)


def read(original: Original, said: Said) -> Reading:
    """Read a file in the dialect that it follows; one whose head or output is named is read as people say."""
    other = bool(said.outputs)
    fitting = [
        one.read
        for one in DIALECTS
        if one.fits(original) and not other and not (one.means and said.head not in (None, "mean"))
    ]
    return _checked(original, (fitting[0] if fitting else read_generic)(original, said), said)


def _checked(original: Original, reading: Reading, said: Said) -> Reading:
    """Refuse a head that random numbers go into, and inputs that it depends on and that nobody knows the meaning of."""
    drawn = random_behind(original, reading.wanted)
    if drawn:
        msg = f"{reading.dialect}: the head is drawn inside the graph by {', '.join(drawn)}, expected it undrawn"
        raise AdoptionRefused(msg)
    known = {*reading.observations, reading.mask, *(one.source for one in reading.memory)}
    missing = [name for name in reading.observations if name not in original.inputs]
    if missing or not reading.observations:
        names = ", ".join(original.inputs)
        msg = f"the inputs are [{names}], expected observations named {', '.join(missing) or 'with --obs'}"
        raise OptionInvalid(msg)
    if not set(said.memory) <= {(one.source, one.result) for one in reading.memory}:
        told = ", ".join(f"{one.source}={one.result}" for one in reading.memory) or "none"
        msg = f"{reading.dialect} says itself what it carries ({told}), expected no --memory with it"
        raise OptionInvalid(msg)
    used = original.behind(reading.wanted)
    lost = [name for name in original.inputs if name in used and name not in known]
    if lost:
        msg = (
            f"{reading.dialect}: the input {lost[0]!r} is neither an observation, a mask nor memory; "
            f"say --obs {','.join([*reading.observations, lost[0]])} if it is an observation, "
            f"--memory {lost[0]}=OUTPUT if an output gives it back"
        )
        raise OptionInvalid(msg)
    return reading
