"""Plain networks that a declaration describes: one function each, and one line each in the table at the end."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from export.declaration import Declaration, DuelingNetwork, MlpNetwork
from export.errors import DeclarationInvalid
from export.networks import ACTIVATIONS, Dueling, Tensors, entry, stack
from export.spec import Head, Source
from export.trained import TrainedPolicy


def of_declaration(declaration: Declaration, tensors: Mapping[str, torch.Tensor], sha256: str) -> TrainedPolicy:
    """Build the network that a declaration describes from a plain state dict."""
    return NETWORKS[declaration.network.kind](declaration, Tensors(tensors, "the state dict"), sha256)


def mlp(declaration: Declaration, tensors: Tensors, sha256: str) -> TrainedPolicy:
    """Build linear layers with an activation between them; head ``q_values`` or ``logits``, as declared."""
    network = declaration.network
    if not isinstance(network, MlpNetwork):
        raise TypeError(network)
    first, width, inside = entry(declaration.observation)
    widths = (width, *network.hidden, declaration.action.n)
    names = _ordered(tensors, network.layers or tensors.layers(), len(widths) - 1, named=bool(network.layers))
    body = _between(stack(tensors, names, widths, _declared_activation(network.activation)))
    tensors.finish()
    family = "dqn" if network.head == "q_values" else "categorical"
    return _of_state_dict(declaration, nn.Sequential(*first, *body), network.head, family, inside, sha256)


def dueling(declaration: Declaration, tensors: Tensors, sha256: str) -> TrainedPolicy:
    """Build a dueling network: value and advantages joined; head ``q_values``."""
    network = declaration.network
    if not isinstance(network, DuelingNetwork):
        raise TypeError(network)
    first, width, inside = entry(declaration.observation)
    activation = _declared_activation(network.activation)
    left = tensors.layers()
    value = network.value or tuple(name for name in left if "val" in name.lower())
    advantage = network.advantage or tuple(name for name in left if "adv" in name.lower())
    trunk = network.trunk or tuple(name for name in left if name not in (*value, *advantage))
    features = (width, *network.hidden)
    streams = []
    for names, given, hidden, outputs in (
        (value, network.value, network.value_hidden, 1),
        (advantage, network.advantage, network.advantage_hidden, declaration.action.n),
    ):
        widths = (features[-1], *hidden, outputs)
        ordered = _ordered(tensors, names, len(widths) - 1, named=bool(given))
        streams.append(nn.Sequential(*_between(stack(tensors, ordered, widths, activation))))
    ordered = _ordered(tensors, trunk, len(network.hidden), named=bool(network.trunk))
    body = nn.Sequential(*first, *stack(tensors, ordered, features, activation))
    tensors.finish()
    inside = (*inside, "q = value + advantage - mean(advantage)")
    return _of_state_dict(declaration, Dueling(body, *streams), "q_values", "dueling", inside, sha256)


def _between(modules: list[nn.Module]) -> list[nn.Module]:
    """Drop the activation after the last layer."""
    return modules[:-1]


def _ordered(tensors: Tensors, names: Sequence[str], count: int, *, named: bool) -> Sequence[str]:
    """Check that ``count`` layers are there and that their order is sure; raises DeclarationInvalid."""
    if len(names) != count:
        msg = f"the declaration expects {count} linear layers here, the state dict has {len(names)}: {', '.join(names)}"
        raise DeclarationInvalid(msg)
    shapes = [tensors.shape(f"{name}.weight") for name in names]
    if not named and len(set(shapes)) < len(shapes) and list(names) != sorted(names, key=_natural):
        msg = (
            f"layers of one shape, and neither their names nor their order in the file say which comes first "
            f"({', '.join(names)}): name them in order in the declaration"
        )
        raise DeclarationInvalid(msg)
    return names


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort ``fc10`` after ``fc2``."""
    return [(int(part or 0), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _declared_activation(name: str) -> type[nn.Module]:
    for known, kind in ACTIVATIONS.items():
        if known.lower() == name.lower():
            return kind
    msg = f"network.activation is {name!r}, expected one of {', '.join(ACTIVATIONS)}"
    raise DeclarationInvalid(msg)


def _of_state_dict(
    declaration: Declaration, module: nn.Module, head: Head, family: str, inside: tuple[str, ...], sha256: str
) -> TrainedPolicy:
    return TrainedPolicy(
        module=module,
        observation=declaration.observation,
        action=declaration.action,
        head=head,
        family=family,
        inside=inside,
        source=Source(library="torch", algorithm=declaration.algorithm, checkpoint_sha256=sha256),
    )


# Declared networks by their kind.
NETWORKS: Mapping[str, Callable[[Declaration, Tensors, str], TrainedPolicy]] = {"mlp": mlp, "dueling": dueling}
