"""A mother artefact: what a faster variant is made of and measured against."""

from dataclasses import dataclass

import numpy as np

from export.errors import OptionInvalid, ParityFailed
from export.meaning import Arrays, Meaning
from export.parity import differing
from export.questions import Played, play, trials
from export.runtime import Session
from export.spec import Box, Recorded, Variant
from export.spec.artefact import Artefact, open_artefact

BATCHES = (1, 8, 64)
# Two actions of a Box are alike where each number differs by at most this share of its range.
_ALIKE = 0.01
_TIMED_RUNS = 200


@dataclass(frozen=True, slots=True)
class Mother:
    """An artefact with the meaning of its inputs and outputs, ready to be asked."""

    artefact: Artefact
    meaning: Meaning
    session: Session

    def __repr__(self) -> str:
        return f"<Mother {self.artefact!r}>"


def mother_of(data: bytes) -> Mother:
    """Open an artefact to make a variant of; raises ArtefactError, and OptionInvalid where it is a variant itself."""
    artefact = open_artefact(data)
    manifest = artefact.manifest
    if manifest.variant is not None:
        msg = f"{manifest.name}-{manifest.version} is itself {manifest.variant.kind} of another artefact: take that one"
        raise OptionInvalid(msg)
    meaning = Meaning(
        observation=manifest.observation,
        action=manifest.action,
        head=manifest.head,
        squash=manifest.squash,
        family=manifest.family,
        mask=manifest.mask,
        memory=manifest.memory,
        spread=manifest.spread,
        scores=manifest.scores,
        inside=manifest.inside,
        source=manifest.source,
    )
    return Mother(artefact=artefact, meaning=meaning, session=Session(data))


def asked(mother: Mother, recorded: Recorded | None) -> Played:
    """What the mother answers to recorded observations, or to sampled ones where there are none."""
    return play(mother.session.run, mother.meaning, trials(mother.meaning, recorded)[0])


def agreement(meaning: Meaning, mother: Played, variant: Session) -> float:
    """Give the share of rows in which the variant executes the same action; for a Box, one within 1 % of its range.

    Each row is asked with the memory that the mother had.
    """
    tolerance = _ALIKE if isinstance(meaning.action, Box) else 0.0
    found = variant.run(mother.inputs)
    return float(1.0 - differing(meaning, tolerance, mother.outputs["action"], found["action"]).mean())


def accepted(mother: Mother, kind: str, share: float, count: int, floor: float, note: str = "") -> Variant:
    """Say how a variant was made; raises ParityFailed where it agrees less often than the floor asks."""
    if not share >= floor:
        msg = (
            f"the variant executes the same action in {share * 100:.2f} % of {count} observations, expected at least "
            f"{floor * 100:g} %: nothing was written"
        )
        raise ParityFailed(msg)
    return Variant.model_validate(
        {
            "kind": kind,
            "mother": mother.artefact.digest,
            "observations": count,
            "agreement": share,
            "floor": floor,
            "note": note,
        }
    )


def run_times(session: Session, inputs: Arrays) -> dict[int, float]:
    """Measure the median time (µs) of a run by batch size."""
    times = {}
    for batch in BATCHES:
        rows = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in inputs.items()}
        times[batch] = session.median_s(rows, _TIMED_RUNS) * 1e6
    return times


def beside(mother: Mother, variant: Artefact, inputs: Arrays) -> list[str]:
    """Give size, speed and agreement of mother and variant side by side, as lines."""
    found = variant.manifest.variant
    assert found is not None  # noqa: S101 - only variants come here
    a, b = (run_times(mother.session, inputs), run_times(Session(variant.data), inputs))
    sizes = len(mother.artefact.data), len(variant.data)
    rows = [("", "mother", found.kind, ""), ("bytes", f"{sizes[0]}", f"{sizes[1]}", _ratio(*sizes))]
    rows += [(f"us at batch {n}", f"{a[n]:.1f}", f"{b[n]:.1f}", _ratio(a[n], b[n])) for n in BATCHES]
    alike = f"of {found.observations} observations, at least {found.floor * 100:g} % wanted"
    rows.append(("same action", "", f"{found.agreement * 100:.2f} %", alike))
    return [f"{name:<16}{a:>12}{b:>12}  {note}".rstrip() for name, a, b, note in rows]


def _ratio(mother: float, variant: float) -> str:
    return f"{mother / variant:.2f} times less" if mother >= variant else f"{variant / mother:.2f} times more"
