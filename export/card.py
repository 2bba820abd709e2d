"""The card of a policy: what an artefact says about itself, for people and as JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from export.spec import HEADS, ActionSpace, Array, Box, Dict, Discrete, Field, Fields, Manifest, Statistics
from export.spec.artefact import Artefact

# Sources whose files hold tensors alone: what the layers do with them is what a declaration says.
_DECLARED = frozenset(("torch", "safetensors", "cleanrl"))
Behaviour = Literal["source", "recorded", "unproven", "mother"]
_BEHAVIOUR: dict[Behaviour, str] = {
    "recorded": "declared, and met {count} recorded actions",
    "unproven": (
        "declared, unproven against behaviour: activations, normalisation and the order of observations are as the "
        "declaration says, and nothing but recorded actions shows that they are right (--observations with actions)"
    ),
    "mother": "declared, as its mother was: whether that one met recorded actions says its own card",
}


@dataclass(frozen=True, slots=True)
class Signed:
    """Who vouches for the file: nobody, somebody whose key was not given, a key that was, or nobody who fits."""

    state: Literal["none", "unchecked", "fits", "does not fit"]
    key: str
    found: str


def behaviour_of(manifest: Manifest) -> Behaviour:
    """Say what a policy's answers were compared with.

    ``source`` is what it was read from: a library's own policy, a module, a table or a graph. A network that only a
    declaration describes was compared with what the declaration says, which may be wrong in ways that no tensor shows:
    it met ``recorded`` actions, or is ``unproven``. A variant of such a network agrees with its ``mother``.
    """
    source = manifest.source
    if source.library not in _DECLARED or source.checkpoint_sha256 is None:
        return "source"
    if manifest.parity.recorded:
        return "recorded"
    return "unproven" if manifest.variant is None else "mother"


def behaviour_said(manifest: Manifest) -> str:
    """Say in words what ``behaviour_of`` says; nothing where the source itself was compared with."""
    return _BEHAVIOUR.get(behaviour_of(manifest), "").format(count=manifest.parity.recorded)


def card_json(artefact: Artefact, signed: Signed | None = None) -> str:
    """Give the manifest as JSON, without the golden rows' numbers and with digest, size, signature and behaviour."""
    manifest = artefact.manifest
    values = manifest.model_dump(mode="json", exclude={"golden"})
    # The manifest leaves it out where it is true; who reads a card should not have to know that.
    values |= {"scores": manifest.scores}
    values |= {"digest": artefact.digest, "bytes": len(artefact.data), "golden_rows": _golden_rows(manifest)}
    values |= {"inputs": [port._asdict() for port in manifest.inputs]}
    values |= {"outputs": [port._asdict() for port in manifest.outputs]}
    values |= {"behaviour": behaviour_of(manifest)}
    values |= {"signature": asdict(signed) if signed is not None else None}
    return json.dumps(values | {"operators": sorted(artefact.operators)}, indent=2)


def card(artefact: Artefact, signed: Signed | None = None) -> str:
    """Give the card as lines of text."""
    return "\n".join(_printable(line) for line in _lines(artefact, signed))


def _printable(line: str) -> str:
    """Show control characters as escapes: an artefact of somebody else's must not move the reader's cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def _lines(artefact: Artefact, signed: Signed | None) -> Iterator[str]:
    manifest = artefact.manifest
    source = manifest.source
    library = " ".join(part for part in (source.library, source.library_version) if part)
    yield f"{manifest.name} {manifest.version}"
    if manifest.description:
        yield f"  {manifest.description}"
    yield f"digest       sha256 {artefact.digest}  ({len(artefact.data) / 1024:.1f} KiB, opset {manifest.opset})"
    if signed is not None:
        yield f"signature    {signed.found}"
    yield f"family       {manifest.family}, {_head(manifest)}"
    if not manifest.scores:
        yield "             no scores: only the action that was chosen is known, not how good the others are"
    yield f"source       {source.algorithm or 'network'} of {library}"
    if source.commit:
        yield f"             commit {source.commit}"
    if source.checkpoint_sha256:
        yield f"             checkpoint sha256 {source.checkpoint_sha256}"
    yield from _variant(manifest)
    for text in manifest.inside:
        yield f"inside       {text}"
    if manifest.control_period_s is not None:
        yield f"period       {manifest.control_period_s:g} s"
    for key in ("author", "license", "date", "notes"):
        if value := getattr(manifest, key):
            yield f"{key:<12} {value}"
    yield ""
    yield from _spaces(manifest)
    yield ""
    yield from _proof(manifest)


def _head(manifest: Manifest) -> str:
    parts = HEADS[manifest.head]
    made = f" ({', '.join(parts)})" if len(parts) > 1 else ""
    squashed = f", squashed by {manifest.squash}" if manifest.squash != "none" else ""
    return f"head {manifest.head}{made}{squashed}{', with spread' if manifest.spread else ''}"


def _variant(manifest: Manifest) -> Iterator[str]:
    made = manifest.variant
    if made is None:
        return
    yield f"variant      {made.kind} of the artefact with digest {made.mother}"
    yield (
        f"             same action as that in {made.agreement * 100:g} % of {made.observations} observations, "
        f"at least {made.floor * 100:g} % asked"
    )
    if made.note:
        yield f"             {made.note}"


def _spaces(manifest: Manifest) -> Iterator[str]:
    space, taken = manifest.observation, manifest.statistics
    if isinstance(space, Dict):
        yield f"observation  {len(space.entries)} parts"
        start = 0
        for entry in space.entries:
            yield f"  {entry.key}: {_form(entry.space)}"
            yield from _fields(entry.space, taken, start, "    ")
            start += entry.space.size
    else:
        yield f"observation  {_form(space)}"
        yield from _fields(space, taken, 0, "  ")
    if manifest.mask:
        yield f"mask         {manifest.action.width} truths: what is not allowed is not chosen"
    for memory in manifest.memory:
        meaning = f": {memory.meaning}" if memory.meaning else ""
        form = f"{list(memory.shape)}, {memory.dtype}"
        yield f"memory       {memory.name} {form}, {memory.initial:g} where an episode starts{meaning}"
    yield from _actions(manifest.action)
    if taken is not None:
        yield f"statistics   of {taken.count} observations{f' from {taken.source}' if taken.source else ''}"


def _form(space: Fields | Array) -> str:
    if isinstance(space, Fields):
        return f"{len(space.fields)} fields, {space.dtype}"
    bounds = "" if space.low is None and space.high is None else f", {_bounds(space.low, space.high)}"
    return f"array {list(space.shape)}, {space.dtype}{bounds}"


def _fields(space: Fields | Array, taken: Statistics | None, start: int, indent: str) -> Iterator[str]:
    if isinstance(space, Fields):
        for at, line in enumerate(_table(space.fields)):
            seen = f" {_seen(taken, start + at)}" if taken is not None else ""
            yield f"{indent}{line}{seen}".rstrip()


def _table(fields: tuple[Field, ...]) -> Iterator[str]:
    """One line for each named number: its bounds and unit, in columns."""
    width = max(len(field.name) for field in fields)
    for field in fields:
        yield f"{field.name:<{width}}  {_bounds(field.low, field.high):<24} {field.unit:<8}"


def _actions(action: ActionSpace) -> Iterator[str]:
    if isinstance(action, Discrete):
        yield f"action       one of {action.n}: {', '.join(action.names)}"
        return
    if isinstance(action, Box):
        shape = f", of shape {list(action.form)}" if len(action.form) > 1 else ""
        yield f"action       {action.width} {'number' if action.width == 1 else 'numbers'}{shape}"
        for line in _table(action.fields):
            yield f"  {line}".rstrip()
        return
    yield f"action       {len(action.factors)} choices at once"
    width = max(len(factor.name) for factor in action.factors)
    for factor in action.factors:
        yield f"  {factor.name:<{width}}  one of {len(factor.names)}: {', '.join(factor.names)}"


def _seen(taken: Statistics, at: int) -> str:
    """Give a number's mean, standard deviation and outer quantiles in training."""
    low, high = taken.quantiles[at][0], taken.quantiles[at][-1]
    first, last = taken.probabilities[0], taken.probabilities[-1]
    return (
        f"mean {taken.mean[at]:.4g}, std {taken.std[at]:.4g}, "
        f"{first * 100:g} % below {low:.4g}, {(1 - last) * 100:.4g} % above {high:.4g}"
    )


def _proof(manifest: Manifest) -> Iterator[str]:
    parity = manifest.parity
    steps = f" over {parity.steps} steps" if parity.steps > 1 else ""
    beyond = ", but for the source's own rounding" if parity.max_scaled_error > parity.tolerance else ""
    yield (
        f"parity       {parity.observations} observations{steps}, {parity.reference}: same action in "
        f"{parity.action_agreement * 100:g} % ({parity.near_ties} near ties), largest error "
        f"{parity.max_abs_error:.3g} ({parity.max_scaled_error:.2g} of the scale {parity.scale:.3g}, "
        f"at most {parity.tolerance:g} allowed{beyond})"
    )
    if parity.recorded:
        yield f"             {parity.recorded} of them with recorded actions ({parity.recorded_ties} near ties)"
    if said := behaviour_said(manifest):
        yield f"behaviour    {said}"
    yield f"golden rows  {_golden_rows(manifest)}"
    found = manifest.evaluation
    if found is None:
        yield "evaluation   none"
        return
    how = "deterministic" if found.is_deterministic else "stochastic"
    yield (
        f"evaluation   {found.env}: {found.mean_reward:g} +/- {found.std_reward:g} over {found.n_eval_episodes} "
        f"episodes, {how}, {found.eval_datetime}"
    )


def _golden_rows(manifest: Manifest) -> int:
    return next((tensor.shape[0] for tensor in manifest.golden.inputs.values() if tensor.shape), 0)


def _bounds(low: float | None, high: float | None) -> str:
    return f"{_bound(low, '-inf')} .. {_bound(high, 'inf')}"


def _bound(value: float | None, none: str) -> str:
    return none if value is None else f"{value:g}"
