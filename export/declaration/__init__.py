"""A small declaration, as TOML, of what a plain tensor file cannot say: its spaces and the shape of its network."""

from export.declaration.file import Declaration, parsed, read_declaration
from export.declaration.networks import (
    C51Network,
    DuelingNetwork,
    Encoder,
    Heads,
    LstmNetwork,
    MlpNetwork,
    ModuleNetwork,
    Network,
    Norm,
    QuantileNetwork,
    Std,
)
from export.declaration.spaces import (
    BoxAction,
    DiscreteAction,
    Entries,
    Image,
    MultiBinaryAction,
    MultiDiscreteAction,
    Normalise,
    Numbers,
    Part,
)

__all__ = [
    "BoxAction",
    "C51Network",
    "Declaration",
    "DiscreteAction",
    "DuelingNetwork",
    "Encoder",
    "Entries",
    "Heads",
    "Image",
    "LstmNetwork",
    "MlpNetwork",
    "ModuleNetwork",
    "MultiBinaryAction",
    "MultiDiscreteAction",
    "Network",
    "Norm",
    "Normalise",
    "Numbers",
    "Part",
    "QuantileNetwork",
    "Std",
    "parsed",
    "read_declaration",
]
