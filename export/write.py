"""Writes a trained policy as one verified, self-describing file, or nothing at all."""

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from export.errors import ConversionFailed, OptionInvalid, VerificationFailed
from export.gaussian_columns import refuse_constant, refuse_negative_std
from export.gaussian_ranges import doubts, refuse_squashed_twice
from export.graph import graph_of
from export.meaning import About, Answers, Meaning
from export.parity import TOLERANCE, Proof, gaps, prove
from export.precision import Precise
from export.questions import trials
from export.runtime import Session
from export.spec import HEADS, Box, Golden, Manifest, Parity, Recorded, Tensor
from export.spec.artefact import Artefact, open_artefact, seal
from export.spec.errors import ArtefactError
from export.spec.statistics import statistics
from export.trained import TrainedPolicy
from export.verify import verify

GOLDEN = 16
# Rows that are large, images for instance, are fewer.
_LARGE, _LARGE_GOLDEN = 4096, 8
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
    tell: Callable[[str], None] = lambda _: None,
) -> Artefact:
    """Convert, compare with the source, seal, verify, and only then write the file, whole or not at all.

    ``recorded`` are observations that the policy saw: training statistics come from them and they join the
    comparison, which allows errors of ``tolerance`` at the head's own scale (see ``Parity``). ``step`` is told the
    name of each of ``STEPS`` as it begins, ``tell`` a line for each doubt. The same input gives the same bytes; the
    module is left as it was. Raises ConversionFailed, ParityFailed, HeadImplausible, VerificationFailed or
    OptionInvalid; then the path is as it was.
    """
    artefact = build(policy, about, recorded=recorded, tolerance=tolerance, step=step, tell=tell)
    step("write")
    place(path, artefact.data)
    return artefact


def build(
    policy: TrainedPolicy,
    about: About,
    *,
    recorded: Recorded | None = None,
    tolerance: float = TOLERANCE,
    step: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Artefact:
    """Make the artefact in memory, compared and verified; see ``write``."""
    policy = replace(policy, module=copy.deepcopy(policy.module).cpu().eval())
    step("convert")
    model = graph_of(policy)
    return finish(
        policy,
        model,
        policy.answer,
        about,
        answers_name=f"torch {torch.__version__}",
        precise=Precise(policy),
        recorded=recorded,
        tolerance=tolerance,
        step=step,
        tell=tell,
    )


def finish(
    meaning: Meaning,
    model: onnx.ModelProto,
    answers: Answers,
    about: About,
    *,
    answers_name: str,
    precise: Answers | None = None,
    recorded: Recorded | None = None,
    tolerance: float = TOLERANCE,
    step: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Artefact:
    """Compare a graph with what ``answers`` says to the same questions, seal it and verify it; see ``write``.

    ``precise`` answers in float64, where the source can.
    """
    step("compare")
    asked = trials(meaning, recorded)
    session = Session(model.SerializeToString())
    actions = None if recorded is None else recorded.actions
    proof = prove(
        meaning, session, answers, asked, tolerance, answers_name=answers_name, precise=precise, recorded=actions
    )
    parity = proof.parity
    refuse_negative_std(proof.played)
    refuse_constant(meaning, session.run, asked, proof.played)
    refuse_squashed_twice(meaning, proof.played)
    for line in doubts(meaning, proof.played):
        tell(line)
    step("seal")
    golden = _golden(meaning, proof, 0 if recorded is None else len(recorded))
    manifest = _manifest(meaning, about, parity, golden, recorded, _opset(model))
    try:
        artefact = open_artefact(seal(model, manifest))
    except ArtefactError as error:
        msg = f"the network cannot become an artefact: {error}"
        raise ConversionFailed(msg) from error
    step("verify")
    report = verify(artefact.data)
    for check in report.checks:
        if not check.passed:
            rounded = (
                "" if proof.plain.all() else ": the policy's own float32 rounding, which --tolerance allows more of,"
            )
            msg = f"the finished file fails its own check {check.name!r}: {check.found}{rounded}; nothing was written"
            raise VerificationFailed(msg)
    return artefact


def _opset(model: onnx.ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _golden(meaning: Meaning, proof: Proof, seen: int) -> Golden:
    """Choose rows that say most, half of them from the ``seen`` recorded ones at the front."""
    parity, played, plain, steady = proof
    head = played.outputs[HEADS[meaning.head][0]]
    clear = steady
    if not isinstance(meaning.action, Box):
        clear = steady & (gaps(meaning, head) > _CLEAR * parity.tolerance * parity.row_scales(head))
    count = GOLDEN if meaning.observation.size <= _LARGE else _LARGE_GOLDEN
    first = _spread(np.arange(seen), (clear, steady, plain), count // 2)
    chosen = np.concatenate([first, _spread(np.arange(seen, len(head)), (clear, steady, plain), count - len(first))])
    outputs = (*meaning.outputs, meaning.action.port)
    return Golden(
        inputs={port.name: Tensor.of(played.inputs[port.name][chosen]) for port in meaning.inputs},
        outputs={port.name: Tensor.of(played.outputs[port.name][chosen]) for port in outputs},
    )


def _spread(pool: NDArray[np.int64], better: Sequence[NDArray[np.bool_]], count: int) -> NDArray[np.int64]:
    """Pick ``count`` indices evenly from the pool, from the first of its ``better`` parts that is large enough."""
    parts = [pool[wanted[pool]] for wanted in better]
    source = next((part for part in parts if len(part) >= count), pool)
    return source[np.linspace(0, len(source) - 1, min(count, len(source))).astype(np.int64)]


def _manifest(
    meaning: Meaning, about: About, parity: Parity, golden: Golden, recorded: Recorded | None, opset: int
) -> Manifest:
    try:
        return Manifest(
            name=about.name,
            version=about.version,
            family=meaning.family,
            head=meaning.head,
            squash=meaning.squash,
            observation=meaning.observation,
            action=meaning.action,
            mask=meaning.mask,
            memory=meaning.memory,
            spread=meaning.spread,
            scores=meaning.scores,
            inside=meaning.inside,
            control_period_s=about.control_period_s,
            statistics=statistics(recorded, meaning.observation) if recorded is not None else None,
            golden=golden,
            parity=parity,
            opset=opset,
            source=meaning.source,
            variant=meaning.variant,
            evaluation=about.evaluation,
            author=about.author,
            license=about.license,
            description=about.description,
            date=about.date,
            notes=about.notes,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        msg = f"{place + ': ' if place else ''}{first['msg']}, found {str(first['input'])[:60]!r}"
        raise OptionInvalid(msg) from error


def place(path: Path, data: bytes) -> None:
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
