"""RecurrentPPO of sb3-contrib: the actor's LSTM with its state as memory, and the layers and head after it."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from export.errors import CheckpointRefused
from export.networks import Tensors
from export.sb3.actor_critic import actor_layers, family_of, logits_head, set_critic_aside
from export.sb3.checkpoint import Sb3Checkpoint, literal, refuse_cvar, source_of
from export.sb3.features import Features, actor_prefix, features_of
from export.sb3.gaussian import gaussian_head
from export.sb3.normaliser import Normaliser
from export.sb3.spaces import actions_of, observations_of
from export.spec import Box, Memory
from export.trained import TrainedPolicy


class Cell(nn.Module):
    """One layer of an LSTM for one step: the gates in torch's order, which is input, forget, cell, output.

    Written out rather than as ``nn.LSTM``, whose exported form reads its weights behind torch's back and warns of it.
    """

    def __init__(self, inputs: nn.Linear, recurrence: nn.Linear) -> None:
        super().__init__()
        self.inputs, self.recurrence = inputs, recurrence

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = (self.inputs(x) + self.recurrence(h)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class Recurrent(nn.Module):
    """Takes the observation, h and c, and gives the head, h and c; memory is ``[N, layers, hidden]``, batch first."""

    def __init__(self, features: nn.Module, cells: Sequence[Cell], head: nn.Module) -> None:
        super().__init__()
        self.features, self.cells, self.head = features, nn.ModuleList(cells), head

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *observation, hidden, cell = inputs
        latent, states = self.features(*observation), []
        for at, layer in enumerate(self.cells):
            latent, kept = layer(latent, hidden[:, at], cell[:, at])
            states.append((latent, kept))
        found = self.head(latent)
        heads = (found,) if isinstance(found, torch.Tensor) else found
        return (*heads, *(torch.stack(part, dim=1) for part in zip(*states, strict=True)))


def recurrent(found: Sb3Checkpoint, normaliser: Normaliser | None, cvar: float | None) -> TrainedPolicy:
    """Build RecurrentPPO: the actor alone, with its own LSTM or the one that it shares with the critic.

    There is no input for the start of an episode: whoever runs the graph gives the memory's initial value there.
    """
    refuse_cvar(cvar)
    observation, action = observations_of(found), actions_of(found)
    tensors = Tensors(found.tensors, "policy.pth")
    features = features_of(found, tensors, observation, normaliser, prefix=actor_prefix(found, tensors))
    size = found.whole("lstm_hidden_size", 256)
    cells = _cells(found, tensors, features.width, size)
    hidden, width = actor_layers(found, tensors, Features(features.module, size, ()))
    if isinstance(action, Box):
        gaussian = gaussian_head(found, tensors, width, action)
        head, squash, inside = gaussian.module, gaussian.squash, gaussian.inside
    else:
        head, squash, inside = logits_head(found, tensors, width), "none", ()
    for prefix in ("lstm_critic.", "critic."):
        tensors.set_aside(prefix)
    set_critic_aside(tensors)
    return TrainedPolicy(
        module=Recurrent(features.module, cells, nn.Sequential(hidden, head)),
        observation=observation,
        action=action,
        head="gaussian" if isinstance(action, Box) else "logits",
        squash=squash,
        family=f"recurrent_{family_of(found)}",
        memory=(
            Memory(name="h", shape=(len(cells), size), meaning="hidden state of the actor's LSTM"),
            Memory(name="c", shape=(len(cells), size), meaning="cell state of the actor's LSTM"),
        ),
        inside=(*features.inside, *inside),
        source=source_of(found, "RecurrentPPO"),
        set_aside=tensors.finish(),
    )


def _cells(found: Sb3Checkpoint, tensors: Tensors, width: int, size: int) -> list[Cell]:
    """Take all layers of ``lstm_actor``."""
    options = literal(found.kwargs.get("lstm_kwargs") or {})
    # Dropout is for training alone. Any other option makes layers of another kind.
    if not isinstance(options, dict) or options.keys() - {"bias", "dropout"}:
        msg = f"lstm_kwargs is {options!r}, expected a table with no keys but bias and dropout"
        raise CheckpointRefused(msg)
    count, bias = found.whole("n_lstm_layers", 1), options.get("bias", True) is True
    return [
        Cell(_gates(tensors, "ih", at, size if at else width, size, bias), _gates(tensors, "hh", at, size, size, bias))
        for at in range(count)
    ]


def _gates(tensors: Tensors, kind: str, at: int, inputs: int, size: int, bias: bool) -> nn.Linear:
    """Take the four gates' weights for a layer's input (``ih``) or its state (``hh``)."""
    # Without memory until the file's own tensors are there: the sizes are only what its texts say.
    layer = nn.Linear(inputs, 4 * size, bias=bias, device="meta")
    weight = tensors.take(f"lstm_actor.weight_{kind}_l{at}", (4 * size, inputs))
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias:
        layer.bias = nn.Parameter(tensors.take(f"lstm_actor.bias_{kind}_l{at}", (4 * size,)), requires_grad=False)
    return layer


# The policies by the module and the class that the zip names.
POLICIES: Mapping[tuple[str, str], Callable[[Sb3Checkpoint, Normaliser | None, float | None], TrainedPolicy]] = {
    ("sb3_contrib.common.recurrent.policies", name): recurrent
    for name in (
        "RecurrentActorCriticPolicy",
        "RecurrentActorCriticCnnPolicy",
        "RecurrentMultiInputActorCriticPolicy",
    )
}
