"""Plain state dicts with a declaration: the right layers in the right order, or a sentence."""

import io
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import Declaration, parsed, read_declaration
from export.declared import state_dict
from export.errors import CheckpointRefused, DeclarationInvalid, TensorsUnaccounted, VerificationFailed
from export.graph import graph_of
from export.networks import Dueling
from export.runtime import Session
from export.spec import Discrete
from export.trained import About, TrainedPolicy
from export.write import build

ABOUT = About(name="test", version="1")
SPACES = {
    "observation": {"fields": [{"name": "x", "unit": "m", "low": -1, "high": 1}, {"name": "v"}]},
    "action": {"names": ["left", "stay", "right"]},
}
MLP = {"kind": "mlp", "hidden": [6, 6], "activation": "tanh"}

TWO = "[observation]\nshape = [2]\n[action]\n"

torch.set_num_threads(1)


class Plain(nn.Module):
    """A Q-network as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head: torch.Tensor = self.out(torch.tanh(self.fc2(torch.tanh(self.fc1(obs)))))
        return head


def read(path: Path, declaration: Declaration | None) -> TrainedPolicy:
    """Read a file that torch.save wrote."""
    return state_dict(path.read_bytes(), path.name, declaration)


def stored(value: object, path: Path) -> Path:
    """Save with torch and give the path."""
    torch.save(value, path)
    return path


def test_a_declared_network_answers_as_its_module(tmp_path: Path) -> None:
    """A plain state dict with its declaration gives the module's own numbers."""
    module = Plain()
    path = stored(module.state_dict(), tmp_path / "net.pt")
    seen = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)

    artefact = build(read(path, parsed(SPACES | {"network": MLP, "algorithm": "DQN"}, "declaration")), ABOUT)
    head = Session(artefact.data).run({"obs": seen})["q_values"]

    with torch.no_grad():
        assert np.abs(head - module(torch.from_numpy(seen)).numpy()).max() < 1e-6
    assert artefact.manifest.fields == ("x", "v")
    assert artefact.manifest.action == Discrete(names=("left", "stay", "right"))
    assert artefact.manifest.source.algorithm == "DQN"


def test_a_dueling_network_joins_value_and_advantage(tmp_path: Path) -> None:
    """q = value + advantage - mean(advantage), with streams told by name."""
    module = Dueling(
        nn.Sequential(nn.Linear(2, 6), nn.ReLU()),
        nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
    )
    path = stored(module.state_dict(), tmp_path / "net.pth")
    network = {"kind": "dueling", "hidden": [6], "value_hidden": [4], "advantage_hidden": [5]}
    seen = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)

    artefact = build(read(path, parsed(SPACES | {"network": network}, "declaration")), ABOUT)
    head = Session(artefact.data).run({"obs": seen})["q_values"]

    with torch.no_grad():
        features = module.trunk(torch.from_numpy(seen))
        value, advantage = module.value(features).numpy(), module.advantage(features).numpy()
    assert np.abs(head - (value + advantage - advantage.mean(axis=1, keepdims=True))).max() < 1e-6
    assert artefact.manifest.family == "dueling"
    assert "mean(advantage)" in artefact.manifest.inside[0]


def test_states_enter_one_hot_and_logits_are_a_choice(tmp_path: Path) -> None:
    """An int64 field is a state; a network may be declared to give logits; a state out of range gives NaN."""
    layer = nn.Linear(5, 2)
    module = nn.Sequential(layer)
    table = {
        "observation": {"fields": [{"name": "state", "low": 0, "high": 4}], "dtype": "int64"},
        "action": {"names": ["a", "b"]},
        "network": {"kind": "mlp", "hidden": [], "head": "logits"},
    }
    path = stored(module.state_dict(), tmp_path / "net.pt")

    artefact = build(read(path, parsed(table, "declaration")), ABOUT)
    head = Session(artefact.data).run({"obs": np.array([[3], [5]])})["logits"]

    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    assert np.abs(head[0] - (weight[:, 3] + bias)).max() < 1e-6
    assert np.isnan(head[1]).all()
    assert artefact.manifest.family == "categorical"


def test_an_unsure_order_of_layers_has_to_be_declared(tmp_path: Path) -> None:
    """Layers of one shape whose names do not say their order are not guessed."""
    module = Plain()
    state = module.state_dict()
    renamed = OrderedDict(
        (name.replace("fc1", "input").replace("fc2", "hidden"), tensor) for name, tensor in state.items()
    )
    renamed |= {name.replace("hidden", "again"): tensor for name, tensor in renamed.items() if "hidden" in name}
    path = stored(
        OrderedDict(
            (name, renamed[f"{name}"])
            for layer in ("input", "hidden", "again", "out")
            for name in (f"{layer}.weight", f"{layer}.bias")
        ),
        tmp_path / "net.pt",
    )
    network = MLP | {"hidden": [6, 6, 6]}

    with pytest.raises(DeclarationInvalid, match=r"which comes first \(input, hidden, again, out\)"):
        read(path, parsed(SPACES | {"network": network}, "declaration"))
    layers = ["input", "hidden", "again", "out"]
    assert read(path, parsed(SPACES | {"network": network | {"layers": layers}}, "declaration")).family == "dqn"


def test_a_state_dict_inside_a_checkpoint_is_found_by_its_key(tmp_path: Path) -> None:
    """Training checkpoints hold more than one thing; ``key`` says where the network is."""
    path = stored({"step": 7, "model": Plain().state_dict()}, tmp_path / "net.pt")

    assert read(path, parsed(SPACES | {"network": MLP | {"key": "model"}}, "declaration")).family == "dqn"
    with pytest.raises(CheckpointRefused, match="'step' is a int, expected a tensor"):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))
    with pytest.raises(CheckpointRefused, match=r"net\.pt: other holds a NoneType"):
        read(path, parsed(SPACES | {"network": MLP | {"key": "other"}}, "declaration"))


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    """``torch.save(module)`` would have to be unpickled: it is refused with what it is and what to do."""
    path = stored(Plain(), tmp_path / "net.pt")

    for declaration in (parsed(SPACES | {"network": MLP}, "declaration"), None):
        with pytest.raises(CheckpointRefused, match=r"holds more than tensors.*a whole module .*test_declared\.Plain"):
            read(path, declaration)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": [6]}, DeclarationInvalid, "expects 2 linear layers here, the state dict has 3: fc1, fc2, out"),
        ({"hidden": [6, 7]}, TensorsUnaccounted, r"'fc2.weight' is float32\[6, 6\], expected float32\[7, 6\]"),
        ({"activation": "sinus"}, DeclarationInvalid, "network.activation is 'sinus', expected one of"),
        (
            *({"activation": "leaky_relu"}, DeclarationInvalid),
            r"'leaky_relu', expected one of LeakyReLU, \w+, \w+ \(the nearest of 18\)",
        ),
        ({"layers": ["fc1", "fc2", "last"]}, TensorsUnaccounted, "no tensor 'last.weight'"),
        ({"kind": "dueling"}, DeclarationInvalid, "expects 1 linear layers here, the state dict has 0"),
    ],
)
def test_a_declaration_that_does_not_fit_the_tensors_is_refused(
    change: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    """The layers have to be there, in number and shape."""
    path = stored(Plain().state_dict(), tmp_path / "net.pt")
    network = MLP | change

    with pytest.raises(error, match=message):
        read(path, parsed(SPACES | {"network": network}, "declaration"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "is not TOML"),
        ("[network]\nkind = 'mlp'\nhidden = [8]", "observation: Field required"),
        ("[observation]\nfields = []", "observation.fields: .* at least 1 item"),
        ("[observation]\nshape = [2]\n[action]\nnames = ['a', 'a']", "action name 'a' stands twice"),
        (
            "[observation]\nshape = [2]\ndtype = 'uint8'\n[action]\nnames=['a']\n[network]\nkind='mlp'\nhidden=[]",
            "uint8",
        ),
        (
            "[observation]\nshape = [2]\ndtype = 'int64'\n[action]\nnames=['a']\n[network]\nkind='mlp'\nhidden=[]",
            "int64",
        ),
        ("[observation]\nshape = [2]\n[action]\nnames=['a']\n[network]\nkind='cnn'", "network: .*'cnn'"),
        (TWO + "n=2\n[network]\nkind='dualing'", r"kind is 'dualing', expected one of dueling, .*\(the nearest of 6\)"),
        (
            TWO + "n=2\nkind='discret'\n[network]",
            "kind is 'discret', expected one of discrete, multi_discrete, multi_b",
        ),
        (
            "[observation]\nshape = [2]\n[action]\nnames=['a']\n[network]\nkind='mlp'\nhidden=[4, 0]",
            r"network.hidden\[1\]: .*found '?0",
        ),
        (TWO + "low=[0]\nhigh=[1, 2]\n[network]\nhead='deterministic'", "action: .*low has 1, high has 2"),
        (TWO + "low=[0]\nhigh=[1]\n[network]\nhead='logits'", "'logits', expected 'gaussian' or 'deterministic'"),
        (TWO + "low=[0]\nhigh=[1]\n[network]\nhead='gaussian'", "network: head is 'gaussian', expected std"),
        (TWO + "n=2\n[network]\nhead='gaussian'\nstd=0.1", "'gaussian', which needs an action of kind box"),
        (TWO + "fields=[{name='a'}]\n[network]\nhead='deterministic'\nsquash='tanh'", "needs a low and a higher high"),
        (TWO + "n=2\n[network]\n[normalise]\nmean=true\nvar=1", "normalise.mean: expected a number, a list .*True"),
        (TWO + "n=2\n[network]\n[normalise]\nmean=0", "normalise: expected either var or std"),
        (TWO + "n=2\n[network]\nkind='quantile'\nn_quantiles=5", "network.order: Field required"),
        (TWO + "n=2\n[network]\nkind='c51'\nn_atoms=5\nv_min=1\nv_max=1", "v_min is 1.0, expected less than v_max"),
        (TWO + "n=2\n[network]\nconvolutions='alex'", "network.convolutions: expected 'nature' or a list .*'alex'"),
        (TWO + "nvec=[2, 3]\n[network]\nhead='q_values'", "expected 'logits' for several choices at once"),
        (
            TWO + "n=2\n[network]\nstd={fixed=1, layer='x'}\nhead='gaussian'",
            "network.std: expected a number",
        ),
        ("[[observation.entries]]\nkey='a'\nshape=[0]", r"observation.entries\[0\].shape\[0\]: .*found '0'"),
    ],
)
def test_mistakes_in_a_declaration_name_their_place(text: str, message: str, tmp_path: Path) -> None:
    """A mistake is said with its place in the file, what it was and what was expected."""
    path = tmp_path / "net.toml"
    path.write_text(text)

    with pytest.raises(DeclarationInvalid, match=message):
        read_declaration(path)


def test_tensors_need_a_declaration(tmp_path: Path) -> None:
    """A file of tensors alone says what it needs; a declaration that cannot be read is a sentence."""
    with pytest.raises(DeclarationInvalid, match=r"net.pt holds tensors alone.*: give --declare"):
        read(stored(Plain().state_dict(), tmp_path / "net.pt"), None)
    with pytest.raises(DeclarationInvalid, match="cannot be read"):
        read_declaration(tmp_path / "none.toml")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    """A damaged zip and a list are no state dicts."""
    path = tmp_path / "net.pt"
    path.write_bytes(b"PK\x03\x04 not really")
    stream = io.BytesIO()
    torch.save([1, 2], stream)

    with pytest.raises(CheckpointRefused):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))
    path.write_bytes(stream.getvalue())
    with pytest.raises(CheckpointRefused, match="holds a list, expected a state dict"):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))


Table = dict[str, object]


def policy_of(module: nn.Module, table: Table, cvar: float | None = None) -> TrainedPolicy:
    """Save a module's tensors and read them back with a declaration."""
    stream = io.BytesIO()
    torch.save(module.state_dict(), stream)
    return state_dict(stream.getvalue(), "net.pt", parsed(table, "net.toml"), cvar)


def asked(policy: TrainedPolicy, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Ask the graph of a policy."""
    found = Session(graph_of(policy).SerializeToString()).run(inputs)
    return {name: np.asarray(array) for name, array in found.items()}


def normal(*shape: int) -> np.ndarray:
    """Draw numbers, the same ones every time."""
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("order", ["quantiles_first", "actions_first"])
def test_quantiles_lie_as_declared(order: str) -> None:
    """The last layer of QR-DQN is quantiles by actions; read the other way it answers plausibly and wrong (trap 5)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5 * 3))
    network = {"kind": "quantile", "hidden": [16], "n_quantiles": 5, "order": order}
    table: Table = {"observation": {"shape": [4]}, "action": {"n": 3}, "network": network}
    obs = normal(200, 4)

    found = asked(policy_of(module, table), {"obs": obs})

    with torch.no_grad():
        numbers = module(torch.from_numpy(obs))
    first, last = numbers.view(-1, 5, 3).mean(1).numpy(), numbers.view(-1, 3, 5).mean(2).numpy()
    expected, other = (first, last) if order == "quantiles_first" else (last, first)
    assert np.abs(found["q_values"] - expected).max() < 1e-6
    assert np.array_equal(found["action"], expected.argmax(1))
    assert (found["action"] != other.argmax(1)).mean() > 0.2


def test_the_worst_quantiles() -> None:
    """CVaR over quantiles is the mean of the lowest ones, the last of them in part, in whatever order they come."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5 * 3))
    network = {"kind": "quantile", "n_quantiles": 5, "order": "quantiles_first"}
    table: Table = {"observation": {"shape": [4]}, "action": {"n": 3}, "network": network}
    obs = normal(50, 4)

    found = asked(policy_of(module, table, cvar=0.5), {"obs": obs})

    with torch.no_grad():
        ordered = np.sort(module(torch.from_numpy(obs)).view(-1, 5, 3).numpy(), axis=1)
    expected = (ordered[:, 0] + ordered[:, 1] + 0.5 * ordered[:, 2]) / 2.5
    assert np.abs(found["q_values"] - expected).max() < 1e-6


def test_switches_are_two_choices_each() -> None:
    """A MultiBinary action is round(sigmoid(logit)) of each switch, a logit of zero off (trap 12)."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    module = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight[0] = 0.0
        layer.bias[0] = 0.0
    table: Table = {
        "observation": {"shape": [4]},
        "action": {"kind": "multi_binary", "names": ["fan", "pump", "light"]},
        "network": {"head": "logits"},
    }
    obs = normal(200, 4)

    found = asked(policy_of(module, table), {"obs": obs})

    with torch.no_grad():
        logits = module(torch.from_numpy(obs))
    assert np.array_equal(found["action"], torch.round(torch.sigmoid(logits)).long().numpy())
    assert not found["action"][:, 0].any()
    pairs = torch.from_numpy(found["logits"]).view(-1, 3, 2).log_softmax(2)
    own = torch.distributions.Bernoulli(logits=logits)
    assert float((pairs[:, :, 1] - own.log_prob(torch.ones_like(logits))).abs().max()) < 1e-6  # type: ignore[no-untyped-call]


def test_a_masked_choice_of_several() -> None:
    """Logits of what the mask forbids become -1e8, for several choices at once."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5))
    table: Table = {
        "observation": {"shape": [4]},
        "action": {"nvec": [2, 3]},
        "network": {"head": "logits"},
        "mask": True,
    }
    obs, mask = normal(100, 4), np.random.default_rng(0).random((100, 5)) < 0.7

    found = asked(policy_of(module, table), {"obs": obs, "action_mask": mask})

    with torch.no_grad():
        own = torch.where(torch.from_numpy(mask), module(torch.from_numpy(obs)), torch.tensor(-1e8)).numpy()
    assert np.abs(found["logits"] - own).max() < 1e-6
    assert np.array_equal(found["action"], np.stack([own[:, :2].argmax(1), own[:, 2:].argmax(1)], 1))


def test_the_graph_takes_the_dtype_that_was_declared() -> None:
    """float32 unless said otherwise; a float64 observation is float64 up to the first layer (trap 20)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3))
    single: Table = {"observation": {"shape": [2]}, "action": {"n": 3}, "network": {}}
    double = single | {
        "observation": {"shape": [2], "dtype": "float64"},
        "normalise": {"mean": [1e9, 0.0], "std": [1.0, 2.0]},
    }
    obs = np.array([[1e9 + 0.25, 3.0], [1e9 - 0.5, -1.0]])

    found = asked(policy_of(module, double), {"obs": obs})

    with torch.no_grad():
        own = module(torch.tensor([[0.25, 1.5], [-0.5, -0.5]])).numpy()
    assert np.abs(found["q_values"] - own).max() < 1e-6
    assert policy_of(module, single).inputs[0].dtype == "float32"
    with pytest.raises(VerificationFailed, match="double"):
        asked(policy_of(module, single), {"obs": obs})


def test_a_history_encoder_and_its_policy_are_one_graph() -> None:
    """Two networks in sequence, the first on the old observations in the row, are exported together (trap 30)."""
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(12, 8), nn.ELU(), nn.Linear(8, 2)),
            "actor": nn.Sequential(nn.Linear(5, 7), nn.ELU(), nn.Linear(7, 2)),
        }
    )
    encoder: Table = {"first": 0, "count": 12, "hidden": [8, 2], "activation": "elu", "last_activation": False}
    network: Table = {
        "hidden": [7],
        "activation": "elu",
        "head": "deterministic",
        "layers": ["actor.0", "actor.2"],
        "encoders": [encoder | {"layers": ["encoder.0", "encoder.2"]}],
    }
    table: Table = {"observation": {"shape": [15]}, "action": {"low": [-9, -9], "high": [9, 9]}, "network": network}
    obs = normal(200, 15)

    found = asked(policy_of(module, table), {"obs": obs})

    with torch.no_grad():
        row = torch.from_numpy(obs)
        own = module["actor"](torch.cat([module["encoder"](row[:, :12]), row[:, 12:]], 1)).numpy()
    assert np.abs(found["action"] - own).max() < 1e-6
    with pytest.raises(TensorsUnaccounted, match="does not use: encoder"):
        policy_of(module, table | {"network": network | {"encoders": []}, "observation": {"shape": [5]}})


def test_entries_of_a_dict_come_in_by_key() -> None:
    """An image with channels last and its own encoder, states one-hot and normalised numbers, joined in their order."""
    torch.manual_seed(0)
    module = nn.ModuleDict(
        {
            "cnn": nn.Sequential(nn.Conv2d(2, 3, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh()),
            "head": nn.Sequential(nn.Linear(4 + 5 + 2, 6), nn.ReLU(), nn.Linear(6, 3)),
        }
    )
    entries: list[Table] = [
        {"key": "image", "shape": [5, 6, 2], "dtype": "uint8", "layout": "NHWC", "scale": 255},
        {"key": "place", "dtype": "int64", "fields": [{"name": "floor", "low": 0, "high": 4}]},
        {"key": "joints", "fields": [{"name": "a"}, {"name": "b"}], "normalise": {"mean": 1, "var": [4, 9], "clip": 1}},
    ]
    encoder: Table = {
        "entry": "image",
        "convolutions": [{"channels": 3, "kernel": 3, "stride": 2}],
        "hidden": [4],
        "activation": "Tanh",
        "layers": ["cnn.0", "cnn.3"],
    }
    network: Table = {"hidden": [6], "layers": ["head.0", "head.2"], "encoders": [encoder]}
    table: Table = {"observation": {"entries": entries}, "action": {"n": 3}, "network": network}
    generator = np.random.default_rng(0)
    image, place = generator.integers(0, 256, (50, 5, 6, 2), dtype=np.uint8), generator.integers(0, 5, (50, 1))
    joints = normal(50, 2) * 3

    found = asked(policy_of(module, table), {"obs.image": image, "obs.place": place, "obs.joints": joints})

    with torch.no_grad():
        seen = module["cnn"](torch.from_numpy(image).permute(0, 3, 1, 2) / 255.0)
        hot = nn.functional.one_hot(torch.from_numpy(place[:, 0]), 5).float()
        moved = ((torch.from_numpy(joints).double() - 1) / torch.tensor([2.0, 3.0])).clamp(-1, 1).float()
        own = module["head"](torch.cat([seen, hot, moved], 1)).numpy()
    assert np.abs(found["q_values"] - own).max() < 1e-5


@pytest.mark.parametrize(("cell", "depth"), [("lstm", 1), ("lstm", 2), ("gru", 1), ("gru", 2)])
def test_recurrent_networks_keep_their_state_outside(cell: str, depth: int) -> None:
    """LSTM and GRU between layers, one or more deep: as torch's own over 30 steps of three sessions."""
    torch.manual_seed(0)
    kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
    first, last = nn.Linear(5, 7), nn.Linear(7, 2)
    module = nn.ModuleDict(
        {
            "before": nn.Linear(4, 6),
            "memory": kinds[cell](6, 5, depth),
            "after": nn.Sequential(first, nn.ELU(), last),
            "std": nn.Linear(7, 2),
        }
    )
    network: Table = {
        "kind": "lstm",
        "cell": cell,
        "lstm": "memory",
        "depth": depth,
        "hidden": [6],
        "units": 5,
        "after": [7],
        "activation": "elu",
        "layers": ["before", "after.0", "after.2"],
        "head": "gaussian",
        "std": {"layer": "std", "squash": "clip", "span": [-20, 2]},
    }
    table: Table = {"observation": {"shape": [4]}, "action": {"low": [-1, -1], "high": [1, 1]}, "network": network}
    policy = policy_of(module, table)
    session = Session(graph_of(policy).SerializeToString())
    memory = {port.name: np.zeros((3, *port.shape), dtype=np.float32) for port in policy.inputs[1:]}

    state, worst = None, 0.0
    for obs in normal(30, 3, 4):
        found = session.run({"obs": obs, **memory})
        memory = {name: np.asarray(found[name.replace(".in", ".out")]) for name in memory}
        with torch.no_grad():
            row = nn.functional.elu(module["before"](torch.from_numpy(obs)))
            row, state = module["memory"](row.unsqueeze(0), state)
            latent = nn.functional.elu(first(row[0]))
            mean, std = last(latent), module["std"](latent).clamp(-20, 2).exp()
        worst = max(worst, float(np.abs(found["mean"] - mean.numpy()).max()))
        worst = max(worst, float(np.abs(found["std"] - std.numpy()).max()))

    assert worst < 1e-6
    assert len(policy.memory) == (2 if cell == "lstm" else 1)


@pytest.mark.parametrize(
    ("normalise", "divided"),
    [
        ({"mean": "norm.mean", "var": "norm.var", "epsilon": 1e-5}, lambda var: np.sqrt(var + 1e-5)),
        ({"mean": "norm.mean", "var": "norm.var", "epsilon": 1e-2, "epsilon_with": "std"}, lambda v: np.sqrt(v) + 1e-2),
        ({"mean": "norm.mean", "std": "norm.var", "epsilon": 1e-2}, lambda std: std + 1e-2),
    ],
    ids=["rl_games", "skrl", "rsl_rl"],
)
def test_statistics_in_the_file_normalise(normalise: Table, divided: Callable[[np.ndarray], np.ndarray]) -> None:
    """A normaliser's tensors are found by name; epsilon stands where the library that trained puts it."""
    torch.manual_seed(0)
    actor, mean, var = nn.Linear(3, 2), np.array([1.0, -50.0, 3e4]), np.array([1e-3, 4.0, 100.0])
    tensors = {f"actor.{name}": tensor for name, tensor in actor.state_dict().items()}
    tensors |= {"norm.mean": torch.from_numpy(mean).reshape(1, 3), "norm.var": torch.from_numpy(var)}
    tensors["norm.count"] = torch.tensor(7)
    stream = io.BytesIO()
    torch.save(tensors, stream)
    network: Table = {"head": "deterministic", "ignore": ["norm.count"], "unscale": {"scale": 0.25, "offset": [1, 2]}}
    table: Table = {
        "observation": {"shape": [3]},
        "action": {"fields": [{"name": "hip"}, {"name": "knee"}]},
        "network": network,
        "normalise": normalise,
    }
    obs = (mean + normal(60, 3) * np.sqrt(var)).astype(np.float32)

    found = asked(state_dict(stream.getvalue(), "model.pt", parsed(table, "net.toml")), {"obs": obs})

    row = ((obs.astype(np.float64) - mean) / divided(var)).astype(np.float32)
    with torch.no_grad():
        own = np.array([1, 2]) + 0.25 * actor(torch.from_numpy(row)).numpy()
    assert np.abs(found["mean"] - own).max() < 1e-5
    with pytest.raises(DeclarationInvalid, match=r"normalise.mean: the file has no tensor 'nowhere'"):
        state_dict(stream.getvalue(), "m.pt", parsed(table | {"normalise": normalise | {"mean": "nowhere"}}, "net"))


def test_what_is_ignored_has_to_be_there() -> None:
    """A name that ignores nothing is a mistake in the declaration."""
    table: Table = {"observation": {"shape": [2]}, "action": {"n": 2}, "network": {"ignore": ["critic."]}}

    with pytest.raises(DeclarationInvalid, match=r"network.ignore has 'critic.', but no tensor's name begins with it"):
        policy_of(nn.Sequential(nn.Linear(2, 2)), table)
