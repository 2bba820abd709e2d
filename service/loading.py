"""Loading: the artefacts that a configuration names, read, checked and ready to run."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from export.spec import Box, Field, Fields, ObservationSpace
from export.spec.artefact import SIZE_CAP
from export.spec.signature import KeyInvalid, PublicKey, SignatureRefused, read_public_key, read_signature
from guards.baselines import Policy
from guards.batched import Context
from guards.errors import GuardMisconfigured, InferenceFailed
from guards.records import Floats, Schema
from service.config import Config, ConfigInvalid, Signatures
from service.engine import INLINE_BUDGET_S, Engine, Inputs, VersionRefused, load_version
from service.explore import GREEDY, Acting

POOL_THREADS = 2
# What a baseline is measured with: as many rows as one turn of a busy loop has.
_ROWS, _RUNS = 16, 5


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


def advising(engine: Engine) -> Callable[[Context], Floats]:
    """What a trusted policy says of each row: a number for every choice, of a Box the means in executed units.

    Rows are run one by one, because the last bits of a row's numbers may depend on what it is run with: so its proposal
    is the same in any batch, and can be worked out again from the record. Of a row that cannot be run, or whose numbers
    are not all finite, nothing is said (NaN).
    """
    space = engine.manifest.action
    executed = GREEDY.bind(space, engine.manifest.squash) if isinstance(space, Box) else None
    nothing = np.full(2 * space.width if executed else space.width, np.nan)
    # Of a chosen action that is none, the greatest number would be the first.
    sound = np.isfinite if executed else Acting.of(GREEDY, space, "none", scores=engine.manifest.scores).sound

    def alone(inputs: Inputs, row: int) -> Floats:
        try:
            head = engine.run({name: array[row : row + 1] for name, array in inputs.items()}, None).head[0]
        except InferenceFailed:
            return nothing
        return head.astype(np.float64) if sound(head[None]).all() else nothing

    def advise(context: Context) -> Floats:
        mask = None
        if engine.masked:
            mask = np.ones((len(context), space.width), dtype=np.bool_) if context.mask is None else context.mask
        inputs = engine.inputs(context.observation, mask)
        heads = np.array([alone(inputs, row) for row in range(len(context))]).reshape(-1, len(nothing))
        if executed is None:
            return heads
        means: Floats = executed(heads, np.empty((len(heads), 0)), np.empty((len(heads), 0))).proposed
        return means

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
        lows, highs = [-np.inf, field.low, one.low], [np.inf, field.high, one.high]
        if max(low for low in lows if low is not None) > min(high for high in highs if high is not None):
            ranges = f"{_range(field)}, expected some of {_range(one)}"
            return f"reads the field {field.name!r} from {ranges}"
    return None


def _range(field: Field) -> str:
    """A field's declared bounds, for people."""
    low, high = (-np.inf if field.low is None else field.low), (np.inf if field.high is None else field.high)
    return f"{low:g} to {high:g}"


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
    required = config.require_signature
    signature, keys = (None, None) if required is None else _vouching(path, required)
    return load_version(artefact, schema, pool, config.facts, signature=signature, keys=keys)


def _vouching(artefact: Path, required: Signatures) -> tuple[bytes | None, list[PublicKey]]:
    """The signature beside an artefact, and the keys it may be of; raises VersionRefused where one cannot be read."""
    try:
        return read_signature(artefact), [read_public_key(key) for key in required.keys]
    except KeyInvalid as error:
        raise VersionRefused(f"require_signature.keys: {error}") from error
    except SignatureRefused as error:
        raise VersionRefused(f"the artefact is refused: {error}") from error
