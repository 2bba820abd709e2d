"""The dialect of Unity ML-Agents, versions 1 to 3: the file describes itself in outputs that are constants.

Actions are drawn inside the graph (``continuous_actions``, ``discrete_actions``, or ``action`` in version 1 and 2
alike), so that the head is found by walking back from them: for continuous ones the Gaussian before it is clipped to
[-3, 3] and divided by 3, or before its tanh; for discrete ones the masked logits of each branch.
"""

import re

import numpy as np

from export.adopt.original import Original
from export.adopt.reading import FORMS, Carried, Pieces, Reading, Said, means
from export.adopt.walk import choices_behind, normal_behind, random_behind, value_of
from export.errors import AdoptionRefused

_OBSERVATION = re.compile(r"obs_\d+|vector_observation|visual_observation_\d+")
_NAME = "Unity ML-Agents"


def is_mlagents(original: Original) -> bool:
    """Say whether the file describes itself as ML-Agents does."""
    return "version_number" in original.outputs


def read_mlagents(original: Original, said: Said) -> Reading:
    """Read inputs, mask, memory and head; raises AdoptionRefused where drawn actions hide what they were drawn from."""
    version = value_of(original, "version_number")
    name = f"{_NAME} {int(np.asarray(version).reshape(-1)[0])}" if version is not None else _NAME
    continuous, discrete = _actions(original)
    if continuous and discrete:
        msg = f"{name}: it acts in two spaces at once, {continuous!r} and {discrete!r}, expected one of them"
        raise AdoptionRefused(msg)
    memory = "recurrent_in" in original.inputs and "recurrent_out" in original.outputs
    reading = _continuous(original, continuous) if continuous else _discrete(original, discrete, said)
    return Reading(
        dialect=name,
        observations=said.observations or tuple(n for n in original.inputs if _OBSERVATION.fullmatch(n)),
        mask="action_masks" if "action_masks" in original.inputs and not continuous else "",
        memory=(Carried("recurrent", "recurrent_in", "recurrent_out"),) if memory else (),
        head=reading.head,
        heads=reading.heads,
        squash=reading.squash,
        sizes=reading.sizes,
        low=reading.low,
        high=reading.high,
        echo=reading.echo,
        drawn=reading.drawn,
        inside=reading.inside,
    )


def _actions(original: Original) -> tuple[str, str]:
    """Name the outputs of continuous and of discrete actions; empty where there are none."""
    continuous = "continuous_actions" if "continuous_actions" in original.outputs else ""
    discrete = "discrete_actions" if "discrete_actions" in original.outputs else ""
    if not continuous and not discrete and "action" in original.outputs:
        told = value_of(original, "is_continuous_control")
        if told is None:
            msg = f"{_NAME}: nothing tells whether 'action' is continuous, expected an output is_continuous_control"
            raise AdoptionRefused(msg)
        return ("action", "") if np.asarray(told).reshape(-1)[0] else ("", "action")
    if not continuous and not discrete:
        msg = (
            f"{_NAME}: the outputs are [{', '.join(original.outputs)}], expected continuous_actions or discrete_actions"
        )
        raise AdoptionRefused(msg)
    return continuous, discrete


def _continuous(original: Original, output: str) -> Reading:
    """Read a Gaussian, or the deterministic actions where nobody can tell what the others were drawn from."""
    echo = "deterministic_continuous_actions" if "deterministic_continuous_actions" in original.outputs else ""
    found = normal_behind(original, output)
    if found is None and echo:
        found = normal_behind(original, echo)
    if found is None:
        drawn = ", ".join(random_behind(original, [output]))
        msg = f"{_NAME}: {output!r} is drawn inside the graph ({drawn}), and not as mean + random * std"
        raise AdoptionRefused(msg)
    scale = (found.scale,)
    std = Pieces((found.std,), scale) if found.std else Pieces()
    how = "tanh and un-scale" if found.squashed else "clip"
    return Reading(
        dialect="",
        observations=(),
        head="gaussian",
        heads={"mean": Pieces((found.mean,), scale), "std": std} if scale != (1.0,) or found.std else means(found.mean),
        squash="tanh" if found.squashed else "none",
        low=(found.low,),
        high=(found.high,),
        # Of squashed actions ML-Agents' own deterministic output is the mean before the tanh.
        echo="" if found.squashed else echo,
        drawn=output if found.std else "",
        inside=(f"{how} to [{found.low}, {found.high}]",),
    )


def _discrete(original: Original, output: str, said: Said) -> Reading:
    found = choices_behind(original, output)
    drawn = random_behind(original, [output])
    if found is None and drawn:
        msg = (
            f"{_NAME}: {output!r} is drawn inside the graph ({', '.join(drawn)}), and not from logits that can be found"
        )
        raise AdoptionRefused(msg)
    names = found.names if found is not None else (output,)
    values = said.head == "q_values" or (said.head is None and found is not None and not found.probabilities)
    head = "q_values" if values and len(names) == 1 else "logits"
    # What was found behind the output are scores, whatever the output itself holds.
    form = "numbers" if found is not None else FORMS.get(said.head or "", "numbers")
    shape = value_of(original, "discrete_action_output_shape")
    echo = "deterministic_discrete_actions" if "deterministic_discrete_actions" in original.outputs else ""
    return Reading(
        dialect="",
        observations=(),
        head="q_values" if head == "q_values" else "logits",
        heads={head: Pieces(names, form=form)},
        sizes=said.sizes or (tuple(int(n) for n in np.asarray(shape).reshape(-1)) if shape is not None else ()),
        echo=echo,
        drawn=output if drawn else "",
    )
