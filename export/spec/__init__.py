"""What an artefact is: its spaces, its manifest, its file. Shared by the exporter, the guards and the service."""

from export.spec.artefact import (
    Artefact,
    ArtefactError,
    DigestMismatch,
    ManifestInvalid,
    NotAnArtefact,
    StructureRefused,
    model_of,
    open_artefact,
    seal,
)
from export.spec.manifest import (
    FORMAT,
    Evaluation,
    Golden,
    Head,
    Manifest,
    Parity,
    Source,
    Statistics,
    Tensor,
)
from export.spec.spaces import ActionSpace, Array, Discrete, Field, Fields, ObservationSpace

__all__ = [
    "FORMAT",
    "ActionSpace",
    "Array",
    "Artefact",
    "ArtefactError",
    "DigestMismatch",
    "Discrete",
    "Evaluation",
    "Field",
    "Fields",
    "Golden",
    "Head",
    "Manifest",
    "ManifestInvalid",
    "NotAnArtefact",
    "ObservationSpace",
    "Parity",
    "Source",
    "Statistics",
    "StructureRefused",
    "Tensor",
    "model_of",
    "open_artefact",
    "seal",
]
