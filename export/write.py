"""Writes a trained policy as one verified, self-describing file, or nothing at all."""

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from export.errors import ConversionFailed, OptionInvalid, VerificationFailed
from export.graph import OPSET, graph_of
from export.observations import Recorded, sampled, states, statistics
from export.parity import TOLERANCE, gaps, prove
from export.runtime import Session
from export.spec import Artefact, ArtefactError, Golden, Manifest, Parity, Tensor, open_artefact, seal
from export.trained import About, TrainedPolicy
from export.verify import verify

SAMPLES = 2000
GOLDEN = 16
_ALL_STATES = 65536
# Golden rows are checked on other machines too: their best action is this many tolerances ahead where that can be had.
_CLEAR = 100.0
STEPS = ("convert", "compare", "seal", "verify", "write")


def write(
    policy: TrainedPolicy,
    path: Path,
    about: About,
    *,
    recorded: Recorded | None = None,
    tolerance: float = TOLERANCE,
    step: Callable[[str], None] = lambda _: None,
) -> Artefact:
    """Convert, compare with the source, seal, verify, and only then write the file, whole or not at all.

    ``recorded`` are observations that the policy saw: training statistics come from them and they join the
    comparison, which allows errors of ``tolerance`` at the head's own scale (see ``Parity``). ``step`` is told the
    name of each of ``STEPS`` as it begins. The same input gives the same bytes; the module is left as it was.
    Raises ConversionFailed, ParityFailed, VerificationFailed or OptionInvalid; then the path is as it was.
    """
    artefact = build(policy, about, recorded=recorded, tolerance=tolerance, step=step)
    step("write")
    _replace(path, artefact.data)
    return artefact


def build(
    policy: TrainedPolicy,
    about: About,
    *,
    recorded: Recorded | None = None,
    tolerance: float = TOLERANCE,
    step: Callable[[str], None] = lambda _: None,
) -> Artefact:
    """Make the artefact in memory, compared and verified; see ``write``."""
    policy = replace(policy, module=copy.deepcopy(policy.module).cpu().eval())
    step("convert")
    model = graph_of(policy)
    step("compare")
    seen = recorded.rows if recorded is not None else np.empty((0, *policy.observation.shape), policy.observation.dtype)
    everything = states(policy.observation, _ALL_STATES)
    rows = np.concatenate([seen, everything, sampled(policy.observation, SAMPLES)])
    session = Session(model.SerializeToString())
    parity = prove(policy, session, rows, tolerance)
    step("seal")
    golden = _golden(policy, session, parity, rows, len(seen))
    manifest = _manifest(policy, about, parity, golden, recorded)
    try:
        artefact = open_artefact(seal(model, manifest))
    except ArtefactError as error:
        msg = f"the network cannot become an artefact: {error}"
        raise ConversionFailed(msg) from error
    step("verify")
    report = verify(artefact.data)
    for check in report.checks:
        if not check.passed:
            msg = f"the finished file fails its own check {check.name!r}: {check.found}; nothing was written"
            raise VerificationFailed(msg)
    return artefact


def _golden(policy: TrainedPolicy, session: Session, parity: Parity, rows: NDArray[np.generic], seen: int) -> Golden:
    """Choose rows that say most, half of them from the ``seen`` recorded ones at the front, and run them."""
    head = policy.answer(rows)
    clear = gaps(head) > _CLEAR * parity.tolerance * parity.scales(head)
    first = _spread(np.arange(seen), clear, GOLDEN // 2)
    chosen = np.concatenate([first, _spread(np.arange(seen, len(rows)), clear, GOLDEN - len(first))])
    inputs = np.ascontiguousarray(rows[chosen])
    outputs = session.run(inputs)
    return Golden(
        inputs={"obs": Tensor.of(inputs)},
        outputs={name: Tensor.of(outputs[name]) for name in (policy.head, "action")},
    )


def _spread(pool: NDArray[np.int64], clear: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Pick ``count`` indices evenly from the pool, from its clear ones where they are enough."""
    preferred = pool[clear[pool]]
    source = preferred if len(preferred) >= count else pool
    return source[np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64)]


def _manifest(
    policy: TrainedPolicy, about: About, parity: Parity, golden: Golden, recorded: Recorded | None
) -> Manifest:
    try:
        return Manifest(
            name=about.name,
            version=about.version,
            family=policy.family,
            head=policy.head,
            observation=policy.observation,
            action=policy.action,
            inside=policy.inside,
            control_period_s=about.control_period_s,
            statistics=statistics(recorded) if recorded is not None else None,
            golden=golden,
            parity=parity,
            opset=OPSET,
            source=policy.source,
            evaluation=about.evaluation,
            author=about.author,
            license=about.license,
            description=about.description,
            date=about.date,
            notes=about.notes,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        msg = f"{'.'.join(map(str, first['loc']))}: {first['msg']}, found {str(first['input'])[:60]!r}"
        raise OptionInvalid(msg) from error


def _replace(path: Path, data: bytes) -> None:
    """Put the bytes at ``path`` in one step: a reader sees the old file or the new one, never a part."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise OptionInvalid(msg) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone; an artefact is as readable as any file of its owner.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        msg = f"{path} cannot be written: {error.strerror}"
        raise OptionInvalid(msg) from error
