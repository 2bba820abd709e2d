"""The declaration as a whole, read from TOML, and how its mistakes are said."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field as Constrained
from pydantic import ValidationError, model_validator

from export.archive import read_capped, uncompiled
from export.declaration.networks import (
    C51Network,
    DuelingNetwork,
    Heads,
    LstmNetwork,
    MlpNetwork,
    ModuleNetwork,
    QuantileNetwork,
)
from export.declaration.spaces import (
    BoxAction,
    DeclaredAction,
    DeclaredObservation,
    DiscreteAction,
    MultiBinaryAction,
    Normalise,
    Part,
    parts_of,
    space_of,
)
from export.errors import CheckpointRefused, DeclarationInvalid
from export.spec import ActionSpace, Box, MultiDiscrete, ObservationSpace
from export.spec.nearest import one_of
from export.spec.spaces import Frozen

_CAP = 1024 * 1024


class Declaration(Frozen):
    """The spaces and the network that a file of tensors belongs to."""

    observation: DeclaredObservation
    action: DeclaredAction
    network: Annotated[
        MlpNetwork | DuelingNetwork | C51Network | QuantileNetwork | LstmNetwork | ModuleNetwork,
        Constrained(discriminator="kind"),
    ]
    normalise: Normalise | None = None
    mask: bool = False
    algorithm: str = ""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Declaration":
        if self.normalise is not None and self.observation.kind == "dict":
            msg = "normalise stands alone, expected it inside the entries of a dict observation"
            raise ValueError(msg)
        _refuse_misfit(self.head, self.action, mask=self.mask)
        _refuse_no_module(self.network, self.head, mask=self.mask)
        if isinstance(self.network, Heads) and self.network.squash == "tanh":
            _refuse_unbounded(self.action_space)
        try:
            _ = self.parts
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ValueError(f"observation: {_said(first['msg'])}") from error
        return self

    @property
    def head(self) -> str:
        """What the network gives; those of values alone have no other head."""
        return self.network.head if isinstance(self.network, Heads) else "q_values"

    @property
    def parts(self) -> tuple[Part, ...]:
        """The observation's tensors, each with what happens to it before the first layer."""
        return parts_of(self.observation, self.normalise)

    @property
    def observation_space(self) -> ObservationSpace:
        """The observation as it stands in an artefact."""
        return space_of(self.observation)

    @property
    def action_space(self) -> ActionSpace:
        """The action as it stands in an artefact."""
        return self.action.space

    @property
    def outputs(self) -> int:
        """How many numbers the network's last layer has for one action.

        A switch has one, though it has two choices; a mean and a std that come together have twice the action's.
        """
        space = self.action_space
        if self.binary and isinstance(space, MultiDiscrete):
            return len(space.factors)
        std = self.network.std if isinstance(self.network, Heads) else None
        return 2 * space.width if std is not None and std.half else space.width

    @property
    def constant(self) -> tuple[int, ...]:
        """The numbers of the action, by place, that were said to be always the same."""
        return self.action.constant_places if isinstance(self.action, BoxAction) else ()

    @property
    def binary(self) -> bool:
        """Whether the action is a row of switches."""
        return isinstance(self.action, MultiBinaryAction)


def _refuse_misfit(head: str, action: object, *, mask: bool) -> None:
    if head in ("gaussian", "deterministic") and not isinstance(action, BoxAction):
        msg = f"network.head is {head!r}, which needs an action of kind box (fields, or low and high)"
        raise ValueError(msg)
    if head in ("q_values", "logits", "probabilities") and isinstance(action, BoxAction):
        msg = f"network.head is {head!r}, expected 'gaussian' or 'deterministic' for an action of kind box"
        raise ValueError(msg)
    if head == "q_values" and not isinstance(action, DiscreteAction):
        msg = "network.head is 'q_values', expected 'logits' for several choices at once"
        raise ValueError(msg)
    if head == "probabilities" and isinstance(action, MultiBinaryAction):
        msg = (
            "network.head is 'probabilities', expected 'logits' for switches, the numbers before the sigmoid: of a "
            "probability near 1 the other one cannot be told any more"
        )
        raise ValueError(msg)
    if mask and isinstance(action, BoxAction):
        msg = "mask is true, expected no mask for an action of kind box"
        raise ValueError(msg)


def _refuse_no_module(network: object, head: str, *, mask: bool) -> None:
    if head in ("probabilities", "action") and not isinstance(network, ModuleNetwork):
        msg = (
            f"network.head is {head!r}, expected 'logits' or 'q_values': the layers of a file end in scores, and what "
            "training did behind the last one (softmax, arg-max) is not among them; a whole module may end so"
        )
        raise ValueError(msg)
    if head == "action" and mask:
        msg = "mask is true, expected no mask with network.head = 'action': what is forbidden is chosen before it"
        raise ValueError(msg)


def _refuse_unbounded(space: ActionSpace) -> None:
    for field in space.fields if isinstance(space, Box) else ():
        if field.low is None or field.high is None or field.low >= field.high:
            msg = f"network.squash is 'tanh', which needs a low and a higher high for every number, {field.name!r} too"
            raise ValueError(msg)


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
    """Check a declaration that was read; ``kind`` may be left out where the other keys say it.

    Raises DeclarationInvalid.
    """
    table = _with_kinds(_uncompiled(table))
    try:
        return Declaration.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = _place(table, first["loc"], missing=first["type"] == "missing")
        whole = first["type"] == "missing" or isinstance(first["input"], dict)
        found = "" if whole else f", found {str(first['input'])[:80]!r}"
        said = _unknown_kind(first["ctx"]) if first["type"] == "union_tag_invalid" else _said(first["msg"])
        msg = f"{what}: {place + ': ' if place else ''}{said}{found}"
        raise DeclarationInvalid(msg) from error


def _uncompiled(table: dict[str, object]) -> dict[str, object]:
    """Name tensors as they were before ``torch.compile``; a ``key`` is a way through a file, whose steps stay."""
    return {key: value if key == "key" else _plainly(value) for key, value in table.items()}


def _plainly(value: object) -> object:
    if isinstance(value, dict):
        return _uncompiled(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_plainly(one) for one in value)
    return uncompiled(value) if isinstance(value, str) else value


def _with_kinds(table: dict[str, object]) -> dict[str, object]:
    observation, action, network = table.get("observation"), table.get("action"), table.get("network")
    if isinstance(observation, dict):
        table = table | {"observation": _observation_kind(observation)}
    if isinstance(action, dict) and "kind" not in action:
        kind = "multi_discrete" if action.keys() & {"factors", "nvec"} else "discrete"
        table = table | {"action": {"kind": "box" if action.keys() & {"fields", "low", "high"} else kind} | action}
    if isinstance(network, dict) and "kind" not in network:
        table = table | {"network": {"kind": "mlp"} | network}
    return table


def _observation_kind(observation: dict[str, object]) -> dict[str, object]:
    if "kind" not in observation:
        kind = "array" if "shape" in observation else "dict" if "entries" in observation else "fields"
        observation = {"kind": kind} | observation
    entries = observation.get("entries")
    if isinstance(entries, list):
        named = [_observation_kind(entry) if isinstance(entry, dict) else entry for entry in entries]
        observation = observation | {"entries": named}
    return observation


def _place(table: object, location: Sequence[int | str], *, missing: bool) -> str:
    """Say where in the file a mistake is: pydantic's own names for alternatives are left out."""
    place, node = "", table
    for at, part in enumerate(location):
        if isinstance(node, dict) and part in node:
            place, node = f"{place}.{part}", node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            place, node = f"{place}[{part}]", node[part]
        elif missing and at == len(location) - 1:
            place = f"{place}.{part}"
    return place.removeprefix(".")


def _unknown_kind(context: Mapping[str, object]) -> str:
    """Say which kinds there are, where a table has another one."""
    kind, known = str(context["tag"]), re.findall(r"'(\w+)'", str(context["expected_tags"]))
    return f"kind is {kind[:80]!r}, expected {one_of(kind, known)}"


def _said(message: str) -> str:
    return message.removeprefix("Value error, ")
