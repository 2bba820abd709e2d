"""A small declaration, as TOML, of what a plain state dict cannot say: its spaces and the shape of its network."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field as Constrained
from pydantic import ValidationError, model_validator

from export.archive import read_capped
from export.errors import CheckpointRefused, DeclarationInvalid
from export.spec import Array, Discrete, Fields, Head, ObservationSpace
from export.spec.spaces import Frozen

_CAP = 1024 * 1024
Width = Annotated[int, Constrained(ge=1, le=65536)]
Widths = Annotated[tuple[Width, ...], Constrained(max_length=64)]


class MlpNetwork(Frozen):
    """Linear layers with an activation between them; ``layers`` names them in order where the file's order is unsure.

    ``key`` is where in the file the state dict is, for checkpoints that hold more than one.
    """

    kind: Literal["mlp"] = "mlp"
    hidden: Widths
    activation: str = "ReLU"
    head: Head = "q_values"
    layers: tuple[str, ...] = ()
    key: str = ""


class DuelingNetwork(Frozen):
    """A trunk, and two streams on it: a state's value and its actions' advantages.

    The streams' layers are those with ``value`` and ``advantage`` in their names, unless they are named.
    The activation stands between the layers of each part and after the trunk.
    """

    kind: Literal["dueling"]
    hidden: Widths
    value_hidden: Widths = ()
    advantage_hidden: Widths = ()
    activation: str = "ReLU"
    trunk: tuple[str, ...] = ()
    value: tuple[str, ...] = ()
    advantage: tuple[str, ...] = ()
    key: str = ""


class Declaration(Frozen):
    """The spaces and the network that a state dict belongs to."""

    observation: ObservationSpace
    action: Discrete
    network: Annotated[MlpNetwork | DuelingNetwork, Constrained(discriminator="kind")]
    algorithm: str = ""

    @model_validator(mode="after")
    def _input_is_a_number(self) -> "Declaration":
        if self.observation.dtype not in ("float32", "int64"):
            msg = f"observation.dtype is {self.observation.dtype}, expected float32 or, for one field of states, int64"
            raise ValueError(msg)
        if self.observation.dtype == "int64" and not _is_state(self.observation):
            msg = "an int64 observation has to be one field with low = 0 and a high: it enters the network one-hot"
            raise ValueError(msg)
        return self


def _is_state(space: Fields | Array) -> bool:
    if not isinstance(space, Fields) or len(space.fields) != 1:
        return False
    return space.fields[0].low == 0 and space.fields[0].high is not None and space.fields[0].high <= 65535


def read_declaration(path: Path) -> Declaration:
    """Read a declaration; raises DeclarationInvalid with the place in the file and what was expected there."""
    try:
        table = tomllib.loads(read_capped(path, _CAP).decode())
    except CheckpointRefused as error:
        raise DeclarationInvalid(str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{path.name} is not TOML: {error}"
        raise DeclarationInvalid(msg) from error
    return parsed(table, path.name)


def parsed(table: dict[str, object], what: str) -> Declaration:
    """Check a declaration that was read; ``kind`` may be left out where the other keys say it."""
    observation = table.get("observation")
    if isinstance(observation, dict) and "kind" not in observation:
        table = table | {"observation": observation | {"kind": "array" if "shape" in observation else "fields"}}
    try:
        return Declaration.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        found = "" if first["type"] == "missing" else f", found {str(first['input'])[:80]!r}"
        msg = f"{what}: {place + ': ' if place else ''}{first['msg']}{found}"
        raise DeclarationInvalid(msg) from error
