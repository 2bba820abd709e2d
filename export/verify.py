"""Checks a finished artefact as a server will: its bytes, its manifest, and how it behaves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import VerificationFailed
from export.meaning import Arrays
from export.runtime import Session
from export.spec import Box, Manifest
from export.spec.artefact import Artefact, open_artefact
from export.spec.errors import ArtefactError

_BATCH = 7
_ACTION = 1e-4  # of a Box action, beside the head's own closer check


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was asked, whether it held, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class Report:
    """The checks of one file, in order; later ones are left out where an earlier failure makes them pointless."""

    checks: tuple[Check, ...]
    artefact: Artefact | None

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return all(check.passed for check in self.checks)

    def __repr__(self) -> str:
        held = sum(check.passed for check in self.checks)
        return f"<Report {'OK' if self.passed else 'FAILED'} {held}/{len(self.checks)}>"


def verify(data: bytes) -> Report:
    """Check an artefact's digest, manifest and structure, then its golden rows, determinism and batch independence."""
    try:
        artefact = open_artefact(data)
    except ArtefactError as error:
        return Report(checks=(Check(type(error).__name__, passed=False, found=str(error)),), artefact=None)
    manifest = artefact.manifest
    checks = [
        Check("digest", passed=True, found=f"sha256 {artefact.digest}"),
        Check("manifest", passed=True, found=f"{manifest.name} {manifest.version}, format {manifest.format}"),
        Check("structure", passed=True, found=f"{len(artefact.operators)} operators, {len(data)} bytes"),
    ]
    checks += _behaviour(artefact)
    return Report(checks=tuple(checks), artefact=artefact)


def _behaviour(artefact: Artefact) -> list[Check]:
    try:
        session = Session(artefact.data)
    except VerificationFailed as error:
        return [Check("runtime", passed=False, found=str(error))]
    asked: dict[str, Callable[[Session, Manifest], str]] = {
        "golden rows": _golden_rows,
        "determinism": _determinism,
        "batch independence": _batch_independence,
    }
    checks = []
    for name, ask in asked.items():
        try:
            checks.append(Check(name, passed=True, found=ask(session, artefact.manifest)))
        except VerificationFailed as error:
            checks.append(Check(name, passed=False, found=str(error)))
    return checks


def _golden_rows(session: Session, manifest: Manifest) -> str:
    inputs, golden = _rows(manifest), manifest.golden.outputs
    found = session.run(inputs)
    expected = {port.name: golden[port.name].array() for port in manifest.outputs}
    worst = _compare(manifest, expected, found)
    if "action" in golden and "action" in found:
        _compare_actions(manifest, golden["action"].array(), found["action"])
    return f"{_count(inputs)} rows reproduced, largest error {worst:.2g} of the scale"


def _compare_actions(manifest: Manifest, told: NDArray[np.generic], seen: NDArray[np.generic]) -> None:
    same = np.array_equal(told, seen)
    if isinstance(manifest.action, Box) and told.shape == seen.shape:
        same = bool(np.allclose(told, seen, rtol=_ACTION, atol=_ACTION))
    if not same:
        msg = f"the actions are {seen.tolist()}, the manifest says {told.tolist()}"
        raise VerificationFailed(msg)


def _determinism(session: Session, manifest: Manifest) -> str:
    inputs = _rows(manifest)
    first, second = session.run(inputs), session.run(inputs)
    for port in manifest.outputs:
        if not np.array_equal(first[port.name], second[port.name]):
            worst = manifest.parity.errors(first[port.name], second[port.name], port.name).max()
            msg = f"two runs over the same {_count(inputs)} rows differ in {port.name!r} by {worst:.3g} of their scale"
            raise VerificationFailed(msg)
    return "two runs agree bit for bit"


def _batch_independence(session: Session, manifest: Manifest) -> str:
    inputs = _rows(manifest)
    count = _count(inputs)
    alone = session.run(inputs, chunk=1)
    together = [session.run(inputs, chunk=chunk) for chunk in (_BATCH, count)]
    worst = max(_compare(manifest, alone, found) for found in together)
    return f"rows alone and in batches of {_BATCH} and {count} agree, largest error {worst:.2g} of the scale"


def _rows(manifest: Manifest) -> Arrays:
    return {port.name: manifest.golden.inputs[port.name].array() for port in manifest.inputs}


def _count(inputs: Arrays) -> int:
    return len(next(iter(inputs.values())))


def _compare(manifest: Manifest, expected: Arrays, found: Arrays) -> float:
    """Give the largest error in units of the rows' scale; raises VerificationFailed beyond the tolerance."""
    parity, worst = manifest.parity, 0.0
    for port in manifest.outputs:
        told, seen = expected[port.name], found[port.name]
        if seen.shape != told.shape:
            msg = f"{port.name!r} has the shape {list(seen.shape)}, expected {list(told.shape)}"
            raise VerificationFailed(msg)
        close, error = parity.close(told, seen, port.name), parity.errors(told, seen, port.name)
        if not close.all():
            msg = (
                f"{int((~close).sum())} of {len(close)} rows of {port.name!r} are off by up to {error.max():.3g} of "
                f"their scale, expected at most {parity.tolerance:g}"
            )
            raise VerificationFailed(msg)
        worst = max(worst, float(error.max()))
    return worst
