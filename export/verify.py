"""Checks a finished artefact as a server will: its bytes, its manifest, and how it behaves."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.errors import VerificationFailed
from export.runtime import Session
from export.spec import Artefact, ArtefactError, Manifest, Parity, open_artefact

_BATCH = 7


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
    rows = manifest.golden.inputs["obs"].array()
    found = session.run(rows)
    worst = _compare(manifest.parity, manifest.golden.outputs[manifest.head].array(), found[manifest.head])
    action = manifest.golden.outputs.get("action")
    if action is not None and not np.array_equal(action.array(), found.get("action", np.empty(0))):
        msg = f"the actions are {found.get('action')}, the manifest says {action.array()}"
        raise VerificationFailed(msg)
    return f"{len(rows)} rows reproduced, largest error {worst:.2g} of the scale"


def _determinism(session: Session, manifest: Manifest) -> str:
    rows = manifest.golden.inputs["obs"].array()
    first, second = session.run(rows)[manifest.head], session.run(rows)[manifest.head]
    if not np.array_equal(first, second):
        worst = manifest.parity.errors(first, second).max()
        msg = f"two runs over the same {len(rows)} rows differ by up to {worst:.3g} of their scale"
        raise VerificationFailed(msg)
    return "two runs agree bit for bit"


def _batch_independence(session: Session, manifest: Manifest) -> str:
    rows = manifest.golden.inputs["obs"].array()
    alone = session.run(rows, chunk=1)[manifest.head]
    together = [session.run(rows, chunk=chunk)[manifest.head] for chunk in (_BATCH, len(rows))]
    worst = max(_compare(manifest.parity, alone, found) for found in together)
    return f"rows alone and in batches of {_BATCH} and {len(rows)} agree, largest error {worst:.2g} of the scale"


def _compare(parity: Parity, expected: NDArray[np.generic], found: NDArray[np.generic]) -> float:
    """Give the largest error in units of the rows' scale; raises VerificationFailed beyond the tolerance."""
    if found.shape != expected.shape:
        msg = f"the head has the shape {list(found.shape)}, expected {list(expected.shape)}"
        raise VerificationFailed(msg)
    close, error = parity.close(expected, found), parity.errors(expected, found)
    if not close.all():
        msg = (
            f"{int((~close).sum())} of {len(close)} rows are off by up to {error.max():.3g} of their scale, "
            f"expected at most {parity.tolerance:g}"
        )
        raise VerificationFailed(msg)
    return float(error.max())
