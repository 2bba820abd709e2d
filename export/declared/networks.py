"""Declared networks: one function for each kind, and one line for each in the table at the end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from export.declaration import (
    C51Network,
    Declaration,
    DuelingNetwork,
    LstmNetwork,
    MlpNetwork,
    ModuleNetwork,
    QuantileNetwork,
)
from export.declared.cells import recurrent
from export.declared.entry import Joined, Stored
from export.declared.heads import Atoms, Choices, Quantiles, Valued
from export.declared.joining import joined_of
from export.declared.layers import activation_named, chain, row
from export.declared.norms import Norms
from export.declared.order import ordered
from export.declared.policies import family_of, head_of, policy_of
from export.errors import DeclarationInvalid, OptionInvalid
from export.networks import Dueling, Tensors
from export.spec import Memory, Source
from export.trained import TrainedPolicy


@dataclass(frozen=True, slots=True)
class Plan:
    """What every kind of network is built from; ``shape`` is what comes out of ``joined``, ``norms`` are its own."""

    declaration: Declaration
    tensors: Tensors
    joined: Joined
    shape: tuple[int, ...]
    norms: Norms
    cvar: float | None


@dataclass(frozen=True, slots=True)
class Built:
    """A network: ``core`` takes features and memory and gives numbers and memory, ``head`` gives them their meaning."""

    core: nn.Module
    head: nn.Module
    family: str
    inside: tuple[str, ...] = ()
    memory: tuple[Memory, ...] = ()


class Core(nn.Module):
    """Layers, then one or more last layers on what they give; a recurrent cell may stand between them."""

    def __init__(
        self,
        before: nn.Module,
        ends: Sequence[nn.Module],
        cell: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before, self.cell, self.after = before, cell, after
        self.ends = nn.ModuleList(ends)

    def forward(
        self, features: torch.Tensor, *memory: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        found = self.before(features)
        if self.cell is not None:
            found, memory = self.cell(found, *memory)
        if self.after is not None:
            found = self.after(found)
        return tuple(end(found) for end in self.ends), memory


def of_declaration(
    declaration: Declaration,
    tensors: Mapping[str, torch.Tensor],
    source: Source,
    *,
    cvar: float | None = None,
    stored: Stored | None = None,
) -> TrainedPolicy:
    """Build the network that a declaration describes from plain tensors.

    ``stored`` gives the tensors of other parts of the same file, for statistics that lie there. Raises
    DeclarationInvalid, OptionInvalid, or TensorsUnaccounted where a tensor is missing, has another shape or is left.
    """
    network = declaration.network
    if isinstance(network, ModuleNetwork):
        msg = "network.kind is 'module', which is for TorchScript and modules; plain tensors need their layers declared"
        raise DeclarationInvalid(msg)
    _refuse_cvar(network, cvar)
    found = Tensors(tensors, "the state dict")
    for beginning in network.ignore:
        if not found.has(beginning):
            msg = f"network.ignore has {beginning!r}, but no tensor's name begins with it"
            raise DeclarationInvalid(msg)
        found.set_aside(beginning)
    joined, shape, inside = joined_of(declaration.parts, network, found, stored or (lambda _: dict(tensors)))
    norms = Norms(network, found)
    built = NETWORKS[network.kind](network, Plan(declaration, found, joined, shape, norms, cvar))
    norms.finish()
    return policy_of(
        declaration,
        (joined, built.core, built.head),
        family=built.family,
        memory=built.memory,
        inside=(*inside, *norms.inside, *built.inside),
        source=source,
        set_aside=found.finish(),
    )


def _refuse_cvar(network: object, cvar: float | None) -> None:
    if cvar is not None and not isinstance(network, (C51Network, QuantileNetwork)):
        msg = f"--cvar is {cvar:g}, expected it with a network that knows a distribution of returns (c51, quantile)"
        raise OptionInvalid(msg)
    if cvar is not None and not 0 < cvar <= 1:
        msg = f"--cvar is {cvar:g}, expected above 0 and up to 1"
        raise OptionInvalid(msg)


def mlp(network: object, plan: Plan) -> Built:
    """Build convolutions and linear layers with an activation between them, and the head that was declared."""
    if not isinstance(network, MlpNetwork):
        raise TypeError(network)
    names = _names(network, plan, len(network.convolutions) + len(network.hidden) + 1)
    body, width = chain(plan.tensors, names[:-1], plan.shape, network, plan.norms)
    return _headed(network, plan, names[-1], width, lambda ends: Core(body, ends))


def lstm(network: object, plan: Plan) -> Built:
    """Build layers, a recurrent cell and layers behind it; its state is the policy's memory, zero as it begins."""
    if not isinstance(network, LstmNetwork):
        raise TypeError(network)
    first = len(network.convolutions) + len(network.hidden)
    names = _names(network, plan, first + len(network.after) + 1)
    body, width = chain(plan.tensors, names[:first], plan.shape, network, plan.norms)
    cell = recurrent(plan.tensors, network.lstm, network.cell, (width, network.units), network.depth)
    widths = (network.units, *network.after)
    activation = activation_named(network.activation)
    after = row(plan.tensors, names[first:-1], widths, activation)
    behind = nn.Sequential(after, activation()) if network.after else None
    built = _headed(network, plan, names[-1], widths[-1], lambda ends: Core(body, ends, cell, behind))
    shape = (network.units,) if network.depth == 1 else (network.depth, network.units)
    meanings = {"h": "hidden state", "c": "cell state"} if network.cell == "lstm" else {"h": "hidden state"}
    memory = tuple(Memory(name=name, shape=shape, meaning=meaning) for name, meaning in meanings.items())
    return Built(built.core, built.head, built.family, (*built.inside, f"{network.cell} of {network.units}"), memory)


def _names(network: MlpNetwork | LstmNetwork, plan: Plan, count: int) -> Sequence[str]:
    std = network.std
    if std is not None and std.output is not None:
        msg = "network.std.output is for modules, expected parameter, layer or a number"
        raise DeclarationInvalid(msg)
    return ordered(plan.tensors, network.layers, count, (std.layer,) if std is not None else ())


def _headed(
    network: MlpNetwork | LstmNetwork, plan: Plan, name: str, width: int, core: Callable[[list[nn.Module]], Core]
) -> Built:
    ends: list[nn.Module] = [plan.tensors.linear(name, width, plan.declaration.outputs)]
    if network.std is not None and network.std.layer:
        ends.append(plan.tensors.linear(network.std.layer, width, plan.declaration.outputs))
    head, inside = head_of(network, plan.declaration, plan.tensors)
    return Built(core(ends), head, family_of(network), inside)


def dueling(network: object, plan: Plan) -> Built:
    """Build a dueling network: value and advantages joined; head ``q_values``."""
    if not isinstance(network, DuelingNetwork):
        raise TypeError(network)
    tensors, activation = plan.tensors, activation_named(network.activation)
    left = tensors.layers()
    value = network.value or tuple(name for name in left if "val" in name.lower())
    advantage = network.advantage or tuple(name for name in left if "adv" in name.lower())
    streams = []
    for names, given, hidden in (
        (value, network.value, network.value_hidden),
        (advantage, network.advantage, network.advantage_hidden),
    ):
        others = tuple(name for name in left if name not in names)
        streams.append(ordered(tensors, given, len(hidden) + 1, others))
    count = len(network.convolutions) + len(network.hidden)
    trunk = ordered(tensors, network.trunk, count, (*value, *advantage))
    body, width = chain(tensors, trunk, plan.shape, network, plan.norms)
    one = row(tensors, streams[0], (width, *network.value_hidden, 1), activation)
    each = row(tensors, streams[1], (width, *network.advantage_hidden, plan.declaration.outputs), activation)
    core = Core(nn.Identity(), [Dueling(body, one, each)])
    return Built(core, Choices(binary=False), "dueling", ("q = value + advantage - mean(advantage)",))


def c51(network: object, plan: Plan) -> Built:
    """Build a network that knows a distribution over atoms for each action; head ``q_values``."""
    if not isinstance(network, C51Network):
        raise TypeError(network)
    atoms = torch.linspace(network.v_min, network.v_max, network.n_atoms)
    if plan.tensors.shape(network.atoms):
        stored = plan.tensors.take(network.atoms, (network.n_atoms,))
        if not torch.allclose(stored, atoms, rtol=1e-5, atol=1e-5 * (network.v_max - network.v_min)):
            msg = (
                f"the file's {network.atoms!r} go from {float(stored[0]):g} to {float(stored[-1]):g}, but the "
                f"declaration says v_min = {network.v_min:g}, v_max = {network.v_max:g} and n_atoms = {network.n_atoms}"
            )
            raise DeclarationInvalid(msg)
        atoms = stored
    head = Valued(Atoms(atoms, plan.declaration.outputs, plan.cvar))
    return Built(_of_values(network, plan, network.n_atoms), head, "c51", (_said(plan.cvar, "atoms"),))


def quantile(network: object, plan: Plan) -> Built:
    """Build a network that knows quantiles of the return for each action; head ``q_values``."""
    if not isinstance(network, QuantileNetwork):
        raise TypeError(network)
    first = network.order == "quantiles_first"
    head = Valued(Quantiles(network.n_quantiles, plan.declaration.outputs, plan.cvar, quantiles_first=first))
    return Built(_of_values(network, plan, network.n_quantiles), head, "qr_dqn", (_said(plan.cvar, "quantiles"),))


def _of_values(network: C51Network | QuantileNetwork, plan: Plan, numbers: int) -> Core:
    names = ordered(plan.tensors, network.layers, len(network.convolutions) + len(network.hidden) + 1)
    body, width = chain(plan.tensors, names[:-1], plan.shape, network, plan.norms)
    return Core(body, [plan.tensors.linear(names[-1], width, plan.declaration.outputs * numbers)])


def _said(cvar: float | None, what: str) -> str:
    return (
        f"expectation over {what}" if cvar is None else f"mean over the worst {cvar:g} of outcomes (CVaR), over {what}"
    )


# Declared networks by their kind.
NETWORKS: Mapping[str, Callable[[object, Plan], Built]] = {
    "mlp": mlp,
    "dueling": dueling,
    "c51": c51,
    "quantile": quantile,
    "lstm": lstm,
}
