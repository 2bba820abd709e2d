"""What an artefact is: its spaces, its manifest, its file. Shared by the exporter, the guards and the service.

From here come the spaces and the manifest, which need NumPy and pydantic alone: guards import no more than that. The
file, which needs onnx, is in ``export.spec.artefact``.
"""

from export.spec.manifest import (
    FORMAT,
    HEADS,
    MASK,
    Evaluation,
    Golden,
    Head,
    Manifest,
    Memory,
    Parity,
    Source,
    Squash,
    Tensor,
    Variant,
)
from export.spec.recorded import Recorded
from export.spec.spaces import (
    ActionSpace,
    Array,
    Box,
    Dict,
    Discrete,
    Entry,
    Factor,
    Field,
    Fields,
    MultiDiscrete,
    ObservationSpace,
    Port,
)
from export.spec.statistics import Statistics

__all__ = [
    "FORMAT",
    "HEADS",
    "MASK",
    "ActionSpace",
    "Array",
    "Box",
    "Dict",
    "Discrete",
    "Entry",
    "Evaluation",
    "Factor",
    "Field",
    "Fields",
    "Golden",
    "Head",
    "Manifest",
    "Memory",
    "MultiDiscrete",
    "ObservationSpace",
    "Parity",
    "Port",
    "Recorded",
    "Source",
    "Squash",
    "Statistics",
    "Tensor",
    "Variant",
]
