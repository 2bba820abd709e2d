"""Plain state dicts with a declaration: the right layers in the right order, or a sentence."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.declaration import parsed, read_declaration
from export.errors import CheckpointRefused, DeclarationInvalid, TensorsUnaccounted
from export.networks import Dueling
from export.runtime import Session
from export.sources import read
from export.trained import About
from export.write import build

ABOUT = About(name="test", version="1")
SPACES = {
    "observation": {"fields": [{"name": "x", "unit": "m", "low": -1, "high": 1}, {"name": "v"}]},
    "action": {"names": ["left", "stay", "right"]},
}
MLP = {"kind": "mlp", "hidden": [6, 6], "activation": "tanh"}

torch.set_num_threads(1)


class Plain(nn.Module):
    """A Q-network as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.out = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        head: torch.Tensor = self.out(torch.tanh(self.fc2(torch.tanh(self.fc1(obs)))))
        return head


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
    head = Session(artefact.data).run(seen)["q_values"]

    with torch.no_grad():
        assert np.abs(head - module(torch.from_numpy(seen)).numpy()).max() < 1e-6
    assert artefact.manifest.fields == ("x", "v")
    assert artefact.manifest.action.names == ("left", "stay", "right")
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
    head = Session(artefact.data).run(seen)["q_values"]

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
    head = Session(artefact.data).run(np.array([[3], [5]]))["logits"]

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
    """``torch.save(module)`` would have to be unpickled: it is refused with what to do."""
    path = stored(Plain(), tmp_path / "net.pt")

    with pytest.raises(CheckpointRefused, match="holds more than tensors"):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden": [6]}, DeclarationInvalid, "expects 2 linear layers here, the state dict has 3: fc1, fc2, out"),
        ({"hidden": [6, 7]}, TensorsUnaccounted, r"'fc2.weight' is float32\[6, 6\], expected float32\[7, 6\]"),
        ({"activation": "sinus"}, DeclarationInvalid, "network.activation is 'sinus', expected one of"),
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
        ("[observation]\nfields = []", "observation.fields.fields: .* at least 1 item"),
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
        ("[observation]\nshape = [2]\n[action]\nnames=['a']\n[network]\nkind='mlp'\nhidden=[0]", "found '?0"),
    ],
)
def test_mistakes_in_a_declaration_name_their_place(text: str, message: str, tmp_path: Path) -> None:
    """A mistake is said with its place in the file, what it was and what was expected."""
    path = tmp_path / "net.toml"
    path.write_text(text)

    with pytest.raises(DeclarationInvalid, match=message):
        read_declaration(path)


def test_sources_are_told_by_the_end_of_their_name(tmp_path: Path) -> None:
    """An unknown kind, a missing file, and a declaration where none belongs are sentences."""
    declaration = parsed(SPACES | {"network": MLP}, "declaration")
    table = tmp_path / "q.npy"
    np.save(table, np.zeros((3, 2)))

    with pytest.raises(CheckpointRefused, match=r"ends in '\.h5', expected"):
        read(tmp_path / "net.h5")
    with pytest.raises(CheckpointRefused, match="cannot be read: No such file"):
        read(tmp_path / "net.zip")
    with pytest.raises(DeclarationInvalid, match="give --declare"):
        read(stored(Plain().state_dict(), tmp_path / "net.pt"))
    with pytest.raises(DeclarationInvalid, match="expected no --declare"):
        read(table, declaration)
    with pytest.raises(DeclarationInvalid, match="cannot be read"):
        read_declaration(tmp_path / "none.toml")
    assert read(table).family == "tabular"


def test_a_torchscript_file_is_refused(tmp_path: Path) -> None:
    """A scripted module is no state dict."""
    path = tmp_path / "net.pt"
    path.write_bytes(b"PK\x03\x04 not really")
    stream = io.BytesIO()
    torch.save([1, 2], stream)

    with pytest.raises(CheckpointRefused):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))
    path.write_bytes(stream.getvalue())
    with pytest.raises(CheckpointRefused, match="holds a list, expected a state dict"):
        read(path, parsed(SPACES | {"network": MLP}, "declaration"))
