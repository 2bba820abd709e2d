"""Startup: artefacts are read, checked and made ready, guards bound, the shield proved, and first calls paid for."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from export.spec import Box, Field, Fields, Manifest, ObservationSpace
from export.spec.artefact import SIZE_CAP
from export.spec.signature import KeyInvalid, SignatureRefused, read_public_key, read_signature
from guards.abstention import Doubts, Fresh
from guards.baselines import Policy, Propose, Remember
from guards.baselines.controllers import Pid
from guards.errors import GuardMisconfigured, InferenceFailed, InvalidOutput, ProofUnavailable
from guards.proof.prove import prove
from guards.records import Action, Floats, History, Row, Schema
from guards.shield import Shield
from service.config import Config, ConfigInvalid
from service.decision.batch import Batch, Behaviour, Request
from service.decision.decide import decide
from service.decision.explore.acting import acting_of
from service.decision.explore.explorers import GREEDY
from service.decision.explore.gaussian import Gaussian
from service.decision.sessions import SessionState
from service.log.ids import Keyring
from service.log.records import encode_record
from service.versions.engine import INLINE_BUDGET_S, Engine, Inputs, VersionRefused, load_version, spread_of
from service.versions.router import Assignment

POOL_THREADS = 2
_log = logging.getLogger(__name__)
# What a baseline is measured with: as many rows as one turn of a busy loop has.
_ROWS, _RUNS = 16, 5
# How many rows are decided at once, before there are any callers.
_SIZES = (1, 2, 4, 8, 16)


def load_policy(config: Config) -> Engine:
    """The policy, under its own schema; raises ConfigInvalid or VersionRefused."""
    pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="infer")
    try:
        return _load(config, "policy", config.policy, None, pool)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"facts: {error}") from error


def load_baseline(config: Config, schema: Schema, policy: Engine) -> Engine | None:
    """The trusted policy that the baseline is, under the schema that is served; None where it is another baseline.

    It runs wherever the policy cannot decide, at once and without a memory. Raises ConfigInvalid or VersionRefused.
    """
    if not isinstance(config.baseline, Policy):
        return None
    try:
        engine = _load(config, "baseline.path", Path(config.baseline.path), schema, policy.pool)
    except VersionRefused as error:
        raise ConfigInvalid(f"baseline.path: {error}") from error
    problem = _unfit(engine, policy)
    if problem is not None:
        raise ConfigInvalid(f"baseline.path: {engine.label} {problem}")
    return engine


def advising(engine: Engine) -> Callable[[Row], Floats]:
    """What a trusted policy says of a row: a number for every choice, of a Box the means in executed units.

    A row is run alone, because the last bits of its numbers may depend on what it is run with: so its proposal is the
    same in any batch, and can be worked out again from the record. Of a row that cannot be run, or whose numbers are
    not all finite, nothing is said (NaN).
    """
    space = engine.manifest.action
    executed = Gaussian(space, engine.manifest.squash).executed if isinstance(space, Box) else None
    nothing = np.full(space.width, np.nan)
    # Of a chosen action that is none, the greatest number would be the first.
    acting = acting_of(GREEDY, space, "none", scores=engine.manifest.scores)

    def advise(row: Row) -> Floats:
        mask = None
        if engine.masked:
            mask = np.array([[row.mask is None or bool(row.mask >> i & 1) for i in range(space.width)]])
        try:
            head = engine.run(engine.inputs(np.asarray(row.raw)[None], mask), None).head[0]
            if executed is None:
                acting.read(head)
        except (InferenceFailed, InvalidOutput):
            return nothing
        numbers: Floats = head.astype(np.float64)
        if not np.isfinite(numbers).all():
            return nothing
        return numbers if executed is None else executed(numbers[None, : space.width])[0]

    return advise


def _unfit(engine: Engine, policy: Engine) -> str | None:
    """Why a version cannot be a baseline beside a policy; None where it can."""
    if engine.initial:
        return "has a memory, which nobody keeps while the policy decides, expected a policy without one"
    if engine.label == policy.label and engine.digest != policy.digest:
        return "is called like the policy and is another file, expected a name and version of its own"
    if engine.artefact.loops:
        return "has a loop, so nobody knows how long it takes, expected a policy that can be run at once"
    unlike = _unlike(engine.manifest.observation, policy.manifest.observation)
    if unlike is not None:
        return unlike
    _, inputs, _ = engine.golden(_ROWS)
    took = min(_timed(engine, inputs) for _ in range(_RUNS))
    if took > INLINE_BUDGET_S:
        most = f"at most {INLINE_BUDGET_S * 1000:g} ms, because it is run at once, one row after another"
        return f"takes {took * 1000:.2f} ms for {_ROWS} rows here, expected {most}"
    return None


def _unlike(found: ObservationSpace, wanted: ObservationSpace) -> str | None:
    """Which field means another number than the one of that name that is served; None where none does.

    A dtype may be another one that takes the numbers: a float's fraction is lost in an integer. Ranges may differ, but
    where they have nothing in common it is not the same quantity. Other spaces are the same as a whole.
    """
    if not isinstance(found, Fields) or not isinstance(wanted, Fields):
        return None
    served = {field.name: field for field in wanted.fields}
    for field in found.fields:
        one = served[field.name]
        if not np.can_cast(wanted.dtype, found.dtype, "same_kind"):
            return f"reads the field {field.name!r} as {found.dtype}, expected {wanted.dtype}, as it is observed"
        if field.unit != one.unit:
            return f"reads the field {field.name!r} in the unit {field.unit!r}, expected {one.unit!r}"
        (low, high), (least, most) = _range(field), _range(one)
        if max(low, least) > min(high, most):
            wanted_range = f"expected some of {least:g} to {most:g}"
            return f"reads the field {field.name!r} from {low:g} to {high:g}, {wanted_range}"
    return None


def _range(field: Field) -> tuple[float, float]:
    """A field's declared bounds, infinite where there are none."""
    return (-np.inf if field.low is None else field.low), (np.inf if field.high is None else field.high)


def _timed(engine: Engine, inputs: Inputs) -> float:
    """How long (s) so many rows take, one after another."""
    began = time.perf_counter()
    for row in range(_ROWS):
        engine.run({name: array[row : row + 1] for name, array in inputs.items()}, None)
    return time.perf_counter() - began


def _load(config: Config, setting: str, path: Path, schema: Schema | None, pool: ThreadPoolExecutor) -> Engine:
    """The artefact that a setting names, vouched for where that is required."""
    try:
        with path.open("rb") as file:
            artefact = file.read(SIZE_CAP + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        problem = getattr(error, "strerror", None) or error
        msg = f"{setting}: {path} cannot be read ({problem}), expected an artefact of actd-export"
        raise ConfigInvalid(msg) from error
    if config.require_signature is None:
        return load_version(artefact, schema, pool, config.facts)
    try:
        signature, keys = read_signature(path), [read_public_key(key) for key in config.require_signature.keys]
    except KeyInvalid as error:
        raise VersionRefused(f"require_signature.keys: {error}") from error
    except SignatureRefused as error:
        raise VersionRefused(f"the artefact is refused: {error}") from error
    return load_version(artefact, schema, pool, config.facts, signature=signature, keys=keys)


def bound(
    config: Config, schema: Schema, manifest: Manifest, keyring: Keyring, advise: Callable[[Row], Floats] | None = None
) -> Behaviour:
    """What all decisions have in common; the writer is not known yet. Raises ConfigInvalid.

    ``advise`` gives the numbers of the trusted policy that the baseline is, where it is one.
    """
    try:
        shield = Shield(config.constraints, schema)
        doubts = _doubts(config, schema, manifest)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"constraints.{error}") from error
    try:
        acting = acting_of(config.explore, schema.action, manifest.squash, joint=shield.joins, scores=manifest.scores)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"explore.{error}") from error
    if config.mask == "required" and isinstance(schema.action, Box):
        raise ConfigInvalid("mask: was 'required', expected 'optional': a Box has no choices to mask")
    propose, last_resort, remember = _fallbacks(config, schema, manifest, advise)
    return Behaviour(
        schema=schema,
        shield=shield,
        acting=acting,
        baseline=propose,
        last_resort=last_resort,
        key=keyring.current,
        writer=bytes(8),
        config=config.digest[:16],
        durability=config.durability,
        mask_required=config.mask == "required",
        doubts=doubts,
        remember=remember,
    )


def _fallbacks(
    config: Config, schema: Schema, manifest: Manifest, advise: Callable[[Row], Floats] | None
) -> tuple[Propose, Action | None, Remember | None]:
    """What is below the policy: the baseline's proposals, the last resort, and what the baseline remembers."""
    baseline, period = config.baseline, manifest.control_period_s
    if isinstance(baseline, Pid) and period is not None and baseline.forget_seconds < period:
        msg = f"baseline.forget_seconds: is {baseline.forget_seconds}, expected at least the policy's control period, "
        raise ConfigInvalid(f"{msg}{period} s, or it begins anew at each decision")
    try:
        propose = baseline.bind(schema, advise) if isinstance(baseline, Policy) else baseline.bind(schema)
        return propose, baseline.last(schema), baseline.remembers(schema)
    except GuardMisconfigured as error:
        raise ConfigInvalid(f"baseline.{error}") from error


def _doubts(config: Config, schema: Schema, manifest: Manifest) -> Doubts:
    """The doubts about a version's answers; raises GuardMisconfigured."""
    for i, one in enumerate(config.constraints):
        if isinstance(one, Fresh) and config.guard_clock == "observed_at":
            msg = f"{i}, {one.name!r}: needs guard_clock = 'service': by 'observed_at' no observation is ever old"
            raise GuardMisconfigured(msg)
    return Doubts.of(config.constraints, schema, manifest)


def proven(config: Config, schema: Schema) -> None:
    """Do what ``[proof]`` says; raises ConfigInvalid where the service may not serve."""
    asked = config.proof
    if asked.at_start == "off":
        return
    try:
        verdict = prove(
            schema,
            config.constraints,
            config.baseline.last_resort,
            seconds=asked.seconds,
            known_history=asked.history == "known",
            notes=False,
        )
    except ProofUnavailable as error:
        raise ConfigInvalid(f"proof.at_start: was {asked.at_start!r}, and {error}") from error
    told = "; ".join(line.strip() for line in verdict.left.lines())
    if verdict.outcome == "proved":
        _log.info("%s", told)
    elif asked.at_start == "strict" or (asked.at_start == "refuse" and verdict.outcome == "counterexample"):
        raise ConfigInvalid(f"constraints: {told}, expected it proved: proof.at_start is {asked.at_start!r}")
    else:
        _log.warning("%s", told)


def warm_up(behaviour: Behaviour, engine: Engine) -> None:
    """Decide the artefact's golden rows, by the policy and by the baseline; nothing is journalled or counted."""
    for n in _SIZES:
        observation, inputs, answer = engine.golden(n)
        if engine.inline:
            answer = engine.infer(inputs)
        entry = SessionState(None, None, History(known=True, since=0.0))
        rows = [Request(session="", observation=[], begins=True, answer=Future(), entry=entry) for _ in range(n)]
        stable = Assignment(track="stable", probability=1.0, version=engine.label)
        batch = Batch(requests=rows, assignment=stable, engine=engine, observation=observation, seq=1, may_explore=True)
        for output in (answer, InferenceFailed()):
            batch.spread = spread_of(output)
            decide(behaviour, batch.answered(output, 0.0))
            for record in batch.records:
                encode_record(record)
