"""The adoption of a file: read in its dialect, probed, taken apart, put together under our names, and proved."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import onnx

from export.adopt.chosen import settled
from export.adopt.deploy import Deploy, read_deploy
from export.adopt.dialects import read
from export.adopt.drawn import refuse_other_samples
from export.adopt.forgotten import refuse_forgotten
from export.adopt.forms import inside_of
from export.adopt.graph import Plan, adopted
from export.adopt.layout import Layout, exposed, layouts
from export.adopt.original import Original, read_original
from export.adopt.polarity import allowing
from export.adopt.probe import refuse_mixed, refuse_unsteady
from export.adopt.reading import Pieces, Reading, Said
from export.adopt.reference import Reference
from export.adopt.spaces import action_of, memory_of, observation_of
from export.adopt.trial import DEADLINE_S, Trial
from export.errors import AdoptionRefused, DeclarationInvalid, OptionInvalid
from export.gaussian_columns import columns_named
from export.meaning import Answers, Meaning
from export.spec import Source
from export.spec.manifest import refuse_misfit


@dataclass(frozen=True, slots=True)
class Adoption:
    """What was made of a file: its meaning, the graph, and the file's own answers to compare it with."""

    meaning: Meaning
    model: onnx.ModelProto
    answers: Answers
    answers_name: str
    period_s: float | None = None


def adopt(
    data: bytes,
    said: Said,
    *,
    deploy: bytes | None = None,
    rename: Callable[[Meaning], Meaning] = lambda meaning: meaning,
    deadline_s: float = DEADLINE_S,
) -> Adoption:
    """Make a policy of the bytes of an ONNX file, with what people said because the file does not.

    ``deploy`` is a ``deploy.yaml`` of unitree_rl_lab; ``rename`` puts names into the spaces; no run may take
    longer than the deadline. Raises AdoptionRefused where the file is at fault, OptionInvalid or DeclarationInvalid
    where what was said is, and HeadImplausible where the file gives the action that it chose instead of a head.
    """
    original = read_original(data)
    reading = read(original, said)
    trial = Trial(exposed(original, reading.wanted), deadline_s=deadline_s)
    reading = settled(original, reading, trial, said)
    if not said.observations:
        refuse_forgotten(original, reading, trial)
    refused: AdoptionRefused | None = None
    for layout in layouts(original, reading, trial):
        plan, period = _plan(original, reading, layout, said, deploy)
        meaning = rename(plan.meaning)
        constant = columns_named(meaning.action, said.constant, "--constant")
        plan = replace(plan, meaning=replace(meaning, constant=constant))
        reference = Reference(plan)
        if reading.mask:
            plan = replace(plan, allows=allowing(plan, reference))
            reference = Reference(plan)
        refuse_unsteady(plan, reference)
        for model in _graphs(plan):
            try:
                refuse_mixed(plan, reference, model)
            except AdoptionRefused as error:
                refused = refused or error
                continue
            return _proved(plan, reference, model, period)
    reason = refused or "the rows of its memory are on no axis that can be found"
    msg = f"several observations at once are not answered as each is alone, whatever axis is opened: {reason}"
    raise AdoptionRefused(msg) from refused


def _graphs(plan: Plan) -> Iterator[onnx.ModelProto]:
    """Give the graph as it is, then with shapes opened that hold a batch size, where rows can be on that axis."""
    yield adopted(plan)
    for axis in sorted({0, *(slot.axis or 0 for slot in plan.layout.slots.values())}):
        yield adopted(plan, open_axis=axis)


def _proved(plan: Plan, reference: Reference, model: onnx.ModelProto, period: float | None) -> Adoption:
    reading, meaning = plan.reading, plan.meaning
    if reading.drawn:
        refuse_other_samples(plan, reference)
    if reading.echo:
        meaning = replace(meaning, native=reference.echoed, native_name=f"its own {reading.echo}")
    return Adoption(meaning, model, reference, f"the file as it was found ({reading.dialect})", period)


def _plan(
    original: Original, reading: Reading, layout: Layout, said: Said, deploy: bytes | None
) -> tuple[Plan, float | None]:
    around = None if deploy is None else _around(reading, layout, deploy)
    if around is not None:
        reading = replace(reading, heads=_moved(reading, around))
    action = action_of(reading, layout, said, around)
    forms = inside_of([pieces.form for pieces in reading.heads.values()])
    halves = ("std: the exponential of the log-std",) if any(one.exp for one in reading.heads.values()) else ()
    inside = (
        *reading.inside,
        *halves,
        *forms,
        *(() if around is None else (*around.preparation.inside, "scale and offset actions")),
    )
    meaning = Meaning(
        observation=observation_of(reading, layout, around),
        action=action,
        head=reading.head,
        squash=reading.squash,
        family="adopted",
        mask=bool(reading.mask),
        memory=memory_of(reading, layout, around),
        scores=reading.scores,
        said=reading.said,
        squashed=said.squash == "tanh",
        exponential=any(one.exp for one in reading.heads.values()),
        inside=inside,
        source=Source(library=reading.dialect, algorithm="", checkpoint_sha256=original.sha256),
    )
    try:
        refuse_misfit(meaning)
    except ValueError as error:
        msg = f"what was said does not fit the file: {error}"
        raise OptionInvalid(msg) from error
    plan = Plan(original, reading, layout, meaning, None if around is None else around.preparation)
    return plan, None if around is None else around.period_s


def _around(reading: Reading, layout: Layout, data: bytes) -> Deploy:
    """Read what surrounds the network on the robot."""
    slot = layout.slots[reading.observations[0]]
    if reading.head != "gaussian" or reading.squash != "none" or len(reading.observations) > 1 or len(slot.shape) != 1:
        msg = "deploy.yaml goes with a network of one observation, a vector, that answers with plain means"
        raise DeclarationInvalid(msg)
    gives = layout.width(reading.heads["mean"])
    return read_deploy(data, slot.shape[0], gives, slot.name)


def _moved(reading: Reading, deploy: Deploy) -> dict[str, Pieces]:
    """Put the scale and offset of actions on the head, after the file's own scale."""
    heads = {}
    for ours, pieces in reading.heads.items():
        own = pieces.scale * len(deploy.scale) if len(pieces.scale) == 1 else pieces.scale
        scale = tuple(a * b for a, b in zip(own, deploy.scale, strict=True))
        offset = deploy.offset if ours == "mean" else (0.0,)
        heads[ours] = replace(pieces, scale=tuple(map(abs, scale)) if ours == "std" else scale, offset=offset)
    return heads
