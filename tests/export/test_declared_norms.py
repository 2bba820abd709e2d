"""Batch and layer normalisation in declared networks: as torch's own modules answer in eval mode, or a sentence."""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed
from export.declared import of_declaration
from export.errors import DeclarationInvalid, ExportError, TensorsUnaccounted
from export.spec import Source
from export.trained import About, TrainedPolicy
from export.write import build

Table = dict[str, object]
ABOUT = About(name="test", version="1")
ROW: Table = {"observation": {"shape": [3]}, "action": {"n": 2}}
IMAGE: Table = {"observation": {"shape": [2, 9, 9]}, "action": {"n": 2}}
CONVOLUTIONS = [{"channels": 4, "kernel": 3, "stride": 2}, {"channels": 5, "kernel": 3}]

torch.set_num_threads(1)


class Named(nn.Module):
    """A network whose layers have names that count nothing about their places."""

    def __init__(self) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm1d(3)
        self.fc1, self.bn1 = nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6)
        self.fc2, self.bn2 = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.out = nn.Linear(5, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        first = self.bn1(torch.relu(self.fc1(self.bn0(obs))))
        found: torch.Tensor = self.out(self.bn2(torch.relu(self.fc2(first))))
        return found


class Dueling(nn.Module):
    """A trunk with a normalisation, and two streams on it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU())
        self.value, self.advantage = nn.Linear(6, 1), nn.Linear(6, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        features = self.trunk(obs)
        advantage: torch.Tensor = self.advantage(features)
        joined: torch.Tensor = self.value(features) + advantage - advantage.mean(dim=1, keepdim=True)
        return joined


class Recurrent(nn.Module):
    """A layer with a normalisation in front of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh())
        self.gru = nn.GRU(6, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.gru(self.before(obs)[None])[0][0])
        return found


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """A module with weights and statistics far from those it was made with, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 100)
            elif name.endswith("running_var"):
                tensor.copy_(10.0 ** (torch.rand(tensor.shape, generator=generator) * 6 - 3))
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(1000)
    return module.eval()


def policy_of(module: nn.Module, table: Table) -> TrainedPolicy:
    """The policy that a declaration makes of the module's tensors."""
    return of_declaration(parsed(table, "net.toml"), module.state_dict(), Source(library="torch", algorithm=""))


def rows(policy: TrainedPolicy, count: int = 64) -> np.ndarray:
    """Observations that the policy takes."""
    shape = policy.observation.inputs[0].shape
    return (np.random.default_rng(0).normal(size=(count, *shape)) * 30).astype(np.float32)


def answered(policy: TrainedPolicy, obs: np.ndarray) -> np.ndarray:
    """What the policy says to them, its memory at rest."""
    memory = {port.name: np.zeros((len(obs), *port.shape), np.float32) for port in policy.inputs[1:]}
    return policy.answer({"obs": obs, **memory})["q_values"].astype(np.float64)


def expected(module: nn.Module, obs: np.ndarray) -> np.ndarray:
    """What torch's module says, in double precision."""
    with torch.no_grad():
        found: np.ndarray = copy.deepcopy(module).double()(torch.from_numpy(obs).double()).numpy()
    return found


def seq(*layers: nn.Module) -> nn.Module:
    """The layers one after another."""
    return nn.Sequential(*layers)


BATCH, LAYER = {"norm": "batch"}, {"norm": "layer"}
CASES: Mapping[str, tuple[Callable[[], nn.Module], Table, Table]] = {
    "batch before the activation": (
        lambda: seq(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], **BATCH},
    ),
    "batch before, twice, without bias": (
        lambda: seq(
            *(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh()),
            *(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)),
        ),
        ROW,
        {"hidden": [6, 6], "activation": "tanh", **BATCH},
    ),
    "batch after the activation": (
        lambda: seq(nn.Linear(3, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], **BATCH},
    ),
    "batch without weight and bias": (
        lambda: seq(nn.Linear(3, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "norm": {"kind": "batch", "where": "before"}},
    ),
    "batch on the input": (
        lambda: seq(nn.BatchNorm1d(3), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "input_norm": "batch"},
    ),
    "batch with another epsilon": (
        lambda: seq(nn.Linear(3, 6), nn.BatchNorm1d(6, eps=0.1), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "norm": {"kind": "batch", "epsilon": 0.1}},
    ),
    "names that count no places": (
        Named,
        ROW,
        {"hidden": [6, 5], "input_norm": "batch", "norm": {"kind": "batch", "where": "after"}},
    ),
    "layer before the activation": (
        lambda: seq(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "activation": "tanh", **LAYER},
    ),
    "layer after the activation": (
        lambda: seq(nn.Linear(3, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], **LAYER},
    ),
    "layer without bias": (
        lambda: seq(nn.Linear(3, 6), nn.LayerNorm(6, bias=False), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], **LAYER},
    ),
    "layer without weight and bias": (
        lambda: seq(nn.Linear(3, 6), nn.LayerNorm(6, elementwise_affine=False), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "norm": {"kind": "layer", "affine": False, "where": "before"}},
    ),
    "layer on the input, with another epsilon": (
        lambda: seq(nn.LayerNorm(3, eps=1.0), nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "input_norm": {"kind": "layer", "epsilon": 1.0}},
    ),
    "layer behind the first layer alone": (
        lambda: seq(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6, 6], "norm": {"kind": "layer", "at": [0]}},
    ),
    "batch on the input and layer behind": (
        lambda: seq(nn.BatchNorm1d(3), nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"hidden": [6], "input_norm": "batch", "norm": "layer"},
    ),
    "batch behind convolutions": (
        lambda: seq(
            *(nn.Conv2d(2, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)),
        ),
        IMAGE,
        {"convolutions": CONVOLUTIONS, **BATCH},
    ),
    "batch after a convolution's activation, and on the image": (
        lambda: seq(
            *(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.BatchNorm2d(4)),
            *(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)),
        ),
        IMAGE,
        {"convolutions": CONVOLUTIONS, "input_norm": "batch", "norm": {"kind": "batch", "at": [0]}},
    ),
    "layer over a convolution's whole image": (
        lambda: seq(
            *(nn.Conv2d(2, 4, 3, 2), nn.LayerNorm([4, 4, 4]), nn.ReLU()),
            *(nn.Conv2d(4, 5, 3), nn.LayerNorm([5, 2, 2]), nn.ReLU(), nn.Flatten(), nn.Linear(20, 2)),
        ),
        IMAGE,
        {"convolutions": CONVOLUTIONS, **LAYER},
    ),
    "layer over what was flattened": (
        lambda: seq(
            *(nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(20)),
            nn.Linear(20, 2),
        ),
        IMAGE,
        {"convolutions": CONVOLUTIONS, "norm": {"kind": "layer", "at": [1], "where": "after"}},
    ),
    "dueling": (Dueling, ROW, {"kind": "dueling", "hidden": [6], **LAYER}),
    "recurrent": (
        Recurrent,
        ROW,
        {"kind": "lstm", "cell": "gru", "lstm": "gru", "units": 4, "hidden": [6], "activation": "tanh", **BATCH},
    ),
    "quantiles": (
        lambda: seq(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)),
        ROW,
        {"kind": "quantile", "hidden": [6], "n_quantiles": 1, "order": "actions_first", **LAYER},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_normalised_network_answers_as_torch_does(name: str) -> None:
    """In eval mode, with statistics far from 0 and 1: to single precision, against torch in double."""
    make, spaces, network = CASES[name]
    module = trained(make())

    policy = policy_of(module, {**spaces, "network": network})

    obs = rows(policy)
    right, found = expected(module, obs), answered(policy, obs)
    assert np.abs(found - right).max() < 2e-5 * np.abs(right).max()
    assert any("normalisation" in said for said in policy.inside)


@pytest.mark.parametrize(
    "name", ["batch before the activation", "layer before the activation", "batch behind convolutions", "recurrent"]
)
def test_a_normalised_network_becomes_an_artefact(name: str) -> None:
    """Its operators are on the list, and ONNX Runtime answers the same."""
    make, spaces, network = CASES[name]

    artefact = build(policy_of(trained(make()), {**spaces, "network": network}), ABOUT)

    assert artefact.manifest.parity.action_agreement == 1.0
    assert any("normalisation" in said for said in artefact.manifest.inside)


def test_an_encoder_may_be_normalised_too() -> None:
    """By the names of its normalisations, beside those of the network behind it."""
    encoder = seq(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    policy_net = seq(nn.Linear(8, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))
    module = trained(nn.ModuleDict({"encoder": encoder, "net": policy_net}))
    own: Table = {"count": 4, "hidden": [6], "layers": ["encoder.0"], "norm": {"kind": "batch", "names": ["encoder.1"]}}
    table: Table = {
        "observation": {"shape": [6]},
        "action": {"n": 2},
        "network": {"hidden": [6], "norm": "layer", "encoders": [own]},
    }

    policy = policy_of(module, table)

    obs = rows(policy)
    given = torch.from_numpy(obs).double()
    with torch.no_grad():
        right = policy_net.double()(torch.cat([encoder.double()(given[:, :4]), given[:, 4:]], dim=1)).numpy()
    assert np.abs(answered(policy, obs) - right).max() < 2e-5 * np.abs(right).max()


def mlp(*layers: nn.Module) -> Callable[[], nn.Module]:
    """Layers between 3 numbers and 2 actions."""
    return lambda: seq(*layers, nn.Linear(6, 2))


def net(told: Table) -> Table:
    """A network's declaration."""
    return told


PLAIN_BATCH = mlp(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU())
PLAIN_LAYER = mlp(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU())
AFTER = mlp(nn.Linear(3, 6), nn.ReLU(), nn.LayerNorm(6))
REFUSED: Mapping[str, tuple[Callable[[], nn.Module], Table, type[ExportError], str]] = {
    "batch that is not declared": (
        *(PLAIN_BATCH, net({"hidden": [6]}), DeclarationInvalid),
        "expects 2 linear layers here, the state dict has 3: 0, 1, 3; 1 look like normalisations.*norm = 'batch'",
    ),
    "layer that is not declared": (PLAIN_LAYER, net({"hidden": [6]}), DeclarationInvalid, "declared as norm = 'layer'"),
    "batch without weights that is not declared": (
        *(mlp(nn.Linear(3, 6), nn.BatchNorm1d(6, affine=False)), net({"hidden": [6]}), TensorsUnaccounted),
        "does not use: 1.num_batches_tracked, 1.running_mean, 1.running_var; a batch normalisation is declared as norm",
    ),
    "declared and not there": (
        *(mlp(nn.Linear(3, 6), nn.ReLU()), net({"hidden": [6], **BATCH}), DeclarationInvalid),
        "network.norm is 'batch' in 1 places, the state dict has 0: none",
    ),
    "of another kind": (
        *(PLAIN_BATCH, net({"hidden": [6], **LAYER}), DeclarationInvalid),
        "network.norm is 'layer' in 1 places, the state dict has 0",
    ),
    "more than declared": (
        *(mlp(nn.BatchNorm1d(3), nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU()), net({"hidden": [6], **BATCH})),
        *(DeclarationInvalid, "batch normalisations that are not declared: 2; .*input_norm"),
    ),
    "on the other side by its name": (
        *(PLAIN_LAYER, net({"hidden": [6], "norm": {"kind": "layer", "where": "after"}}), DeclarationInvalid),
        "where is 'after', but by its name '1' stands before the activation of '0'",
    ),
    "on the other side, after": (
        *(AFTER, net({"hidden": [6], "norm": {"kind": "layer", "where": "before"}}), DeclarationInvalid),
        "where is 'before', but by its name '2' stands after",
    ),
    "on no side that names say": (
        *(Named, net({"hidden": [6, 5], "input_norm": "batch", "norm": "batch"}), DeclarationInvalid),
        "nothing says if 'bn1' stands before or after the activation: say where",
    ),
    "in front of its layer": (
        *(mlp(nn.LayerNorm(3), nn.Linear(3, 6), nn.ReLU()), net({"hidden": [6], **LAYER}), DeclarationInvalid),
        "'0' stands in front of '1'.*input_norm",
    ),
    "behind another layer": (
        lambda: seq(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)),
        net({"hidden": [6, 6], "norm": {"kind": "layer", "at": [0]}}),
        *(DeclarationInvalid, "'3' stands behind another layer than '0'"),
    ),
    "in a stream of a dueling network": (
        lambda: nn.ModuleDict(
            {
                "trunk": seq(nn.Linear(3, 6), nn.LayerNorm(6)),
                "value": seq(nn.Linear(6, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 1)),
                "advantage": nn.Linear(6, 2),
            }
        ),
        net({"kind": "dueling", "hidden": [6], "value_hidden": [4], **LAYER}),
        *(DeclarationInvalid, "layer normalisations that are not declared: value.1"),
    ),
    "where there are no layers": (
        *(lambda: seq(nn.LayerNorm(3), nn.Linear(3, 2)), net({"hidden": [], **LAYER}), DeclarationInvalid),
        r"of which there are none \(see input_norm\)",
    ),
    "beyond the last layer": (
        *(PLAIN_LAYER, net({"hidden": [6], "norm": {"kind": "layer", "at": [1]}}), DeclarationInvalid),
        "network.norm.at has 1, expected less than 1",
    ),
    "by too few names": (
        *(PLAIN_LAYER, net({"hidden": [6], "norm": {"kind": "layer", "names": ["1", "2"]}}), DeclarationInvalid),
        "network.norm.names has 2 names, expected 1",
    ),
    "in an order that nothing says": (
        lambda: nn.ModuleDict(
            {
                "l1": nn.Linear(3, 6),
                "first": nn.LayerNorm(6),
                "l2": nn.Linear(6, 6),
                "other": nn.LayerNorm(6),
                "l3": nn.Linear(6, 2),
            }
        ),
        net({"hidden": [6, 6], "norm": {"kind": "layer", "where": "before"}}),
        *(DeclarationInvalid, r"which comes first \(first, other\): name them in order, names"),
    ),
    "of another width": (
        *(PLAIN_BATCH, net({"hidden": [6], "input_norm": "batch"}), TensorsUnaccounted),
        r"the tensor '1.running_mean' is float32\[6\], expected float32\[3\]",
    ),
    "a batch without weights by declaration": (
        *(PLAIN_BATCH, net({"hidden": [6], "norm": {"kind": "batch", "affine": False}}), DeclarationInvalid),
        "network.norm: affine is false, expected it with 'layer' alone",
    ),
    "an input that is placed": (
        *(PLAIN_BATCH, net({"hidden": [6], "input_norm": {"kind": "batch", "where": "after"}}), DeclarationInvalid),
        "network.input_norm: expected no where and no at",
    ),
    "layers out of order": (
        *(PLAIN_BATCH, net({"hidden": [6, 6], "norm": {"kind": "batch", "at": [1, 0]}}), DeclarationInvalid),
        r"network.norm: at is \[1, 0\], expected layers in order",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_normalisation_in_doubt_is_refused(name: str) -> None:
    """One that is not declared, not there, elsewhere, or of another shape: with the way out."""
    make, network, error, message = REFUSED[name]

    with pytest.raises(error, match=message):
        policy_of(trained(make()), {**ROW, "network": network})


def test_negative_variances_are_refused() -> None:
    """No running variance is below 0: such a file is damaged."""
    module = trained(PLAIN_BATCH())
    module.state_dict()["1.running_var"][2] = -1

    with pytest.raises(DeclarationInvalid, match=r"'1.running_var' is negative in places"):
        policy_of(module, {**ROW, "network": {"hidden": [6], **BATCH}})
