"""States of TorchScript: seen however they are written, kept as memory or refused, never lost."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import CheckpointRefused
from export.graph import graph_of
from export.runtime import Session
from export.torchscript import torch_file
from export.trained import TrainedPolicy
from tests.export.scripted.policies import saved
from tests.export.test_torchscript import declared, quiet

torch.set_num_threads(1)


def walk(count: int) -> torch.Tensor:
    """Draw observations that go far enough for rare things to happen, the same ones every time."""
    return 3 * torch.randn((count, 4), generator=torch.Generator().manual_seed(5))


class Keeping(nn.Module):
    """Has a layer, a state ``h [1, 3]``, and another of whole numbers."""

    h: torch.Tensor
    n: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("h", torch.zeros(1, 3))
        self.register_buffer("n", torch.zeros(1, 1, dtype=torch.int64))


class Data(Keeping):
    """Writes past torch's own books."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.data.copy_(0.5 * self.h + x[:, :3])
        return torch.add(self.layer(x), self.h)


class Detached(Keeping):
    """Writes into what shares the state's numbers without being a view of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.detach().mul_(0.5).add_(x[:, :3])
        return torch.add(self.layer(x), self.h)


class Viewed(Keeping):
    """Writes into columns, a reshaped view, and a selected one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h[:, 0] = x[:, 0]
        self.h.view(-1, 3)[:, 1].mul_(0.5).add_(x[:, 1])
        self.h.select(1, 2).copy_(x[:, 2] + self.h[:, 0])
        return torch.add(self.layer(x), self.h)


class Chunked(Keeping):
    """Writes into the parts that the state was cut into."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b, c = self.h.chunk(3, dim=1)
        a.copy_(0.5 * b + x[:, :1])
        b.copy_(a + c)
        c.mul_(0.9).add_(0.1)
        return torch.add(self.layer(x), self.h)


class Rare(Keeping):
    """Changes only where the observation is far out, which few are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.detach().add_((x.sum(1, keepdim=True) > 14.0).float())
        return torch.add(self.layer(x), self.h)


class Switched(Keeping):
    """Remembers in whole numbers whether something was ever seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n |= (x.sum(1, keepdim=True) > 5.0).long()
        return torch.add(self.layer(x), self.n.float())


class Largest(Keeping):
    """Keeps the largest so far by an operator in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.copy_(torch.maximum(self.h, x[:, :3])).clamp_max_(4.0)
        return torch.add(self.layer(x), self.h)


class Aliasing(Keeping):
    """Keeps a part of the observation itself, and then writes into the observation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = x[:, :3]
        found = self.layer(x) + self.h
        x.mul_(2.0)
        return torch.add(found, self.h)


def furthest(policy: TrainedPolicy, original: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Play an episode with the graph, its memory outside, and with what torch loaded; the worst error."""
    session = Session(graph_of(policy).SerializeToString())
    memory = {kept.port_in.name: np.full((1, *kept.shape), kept.initial, dtype=kept.dtype) for kept in policy.memory}
    worst = 0.0
    for obs in walk(120):
        found = session.run({"obs": obs[None].numpy().copy(), **memory})
        memory = {name: np.asarray(found[name.replace(".in", ".out")]) for name in memory}
        with torch.no_grad():
            own = original(obs[None].clone()).numpy()
        worst = max(worst, float(np.abs(found["mean"] - own).max()))
    return worst


@pytest.mark.parametrize("kind", [Data, Detached, Viewed, Chunked, Rare, Switched, Largest, Aliasing])
def test_a_state_is_seen_however_it_is_written(kind: type[Keeping]) -> None:
    """It becomes memory, and 120 steps answer as the module that torch loaded does, which keeps its state itself."""
    torch.manual_seed(0)
    data = saved(kind())
    with quiet():
        original = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]

    policy = torch_file(data, "robot.pt", declared(4, 3))

    assert len(policy.memory) == 1
    assert furthest(policy, original) < 1e-4


class Overlapping(Keeping):
    """Has a second buffer over the numbers of the first."""

    part: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("part", self.h[:, :2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.part.copy_(0.5 * self.part + x[:, :2])
        return torch.add(self.layer(x), self.h)


class Twice(Keeping):
    """Has its state under two names."""

    other: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("other", self.h)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.copy_(0.5 * self.h + x[:, :3])
        return torch.add(self.layer(x), self.other)


class Listed(Keeping):
    """Writes into a tensor of a list."""

    kept: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.kept = [torch.zeros(1, 3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[0].copy_(torch.maximum(self.kept[0], x[:, :3]))
        return torch.add(self.layer(x), self.kept[0])


class Replaced(Listed):
    """Puts another tensor into its list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[0] = torch.maximum(self.kept[0], x[:, :3])
        return torch.add(self.layer(x), self.kept[0])


class Appending(Listed):
    """Has its list grow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.append(x[:, :3])
        return torch.add(self.layer(x), self.kept[-1])


class Named(Keeping):
    """Writes into a tensor of a dictionary: asked the same twice, it answers the same."""

    kept: dict[str, torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.kept = {"largest": torch.zeros(1, 3)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept["largest"].copy_(torch.maximum(self.kept["largest"], x[:, :3]))
        return torch.add(self.layer(x), self.kept["largest"])


class Growing(Keeping):
    """Has its state grow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = torch.cat([self.h, x[:, :1]], dim=1)
        return torch.add(self.layer(x), self.h[:, -3:])


class Widening(Keeping):
    """Keeps its state in another dtype from the first step on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h = (self.h + x[:, :3]).double()
        return torch.add(self.layer(x), self.h.float())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Overlapping, r"keeps its state 'part' in the same memory as h, expected a buffer of its own"),
        (Twice, r"keeps its state 'h' in the same memory as other"),
        (Listed, r"keeps its state in the list or dictionary 'kept'"),
        (Named, r"keeps its state in the list or dictionary 'kept'"),
        (Replaced, r"changes a list of the module: it keeps a state that cannot go in and out"),
        (Appending, r"changes a list of the module"),
        (Growing, r"makes its state float32\[1, 3\] into float32\[1, 4\]"),
        (Widening, r"makes its state float32\[1, 3\] into float64\[1, 3\]"),
    ],
)
def test_a_state_that_cannot_go_in_and_out_is_refused(kind: type[Keeping], message: str) -> None:
    """Shared numbers, lists, dictionaries, and states that grow: alone, each of them would be lost in silence."""
    torch.manual_seed(0)

    with pytest.raises(CheckpointRefused, match=message):
        torch_file(saved(kind()), "robot.pt", declared(4, 3))


class Constant(nn.Module):
    """Has a tensor that tracing takes for a constant, and writes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.kept = nn.Linear(4, 3), [torch.zeros(1, 3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[0].mul_(0.5).add_(x[:, :3])
        return torch.add(self.layer(x), self.kept[0])


def test_a_constant_that_is_written_into_is_refused() -> None:
    """What tracing made a constant of is a state all the same."""
    with pytest.raises(CheckpointRefused, match="writes into one of its constants"):
        torch_file(saved(Constant(), torch.zeros(1, 4)), "robot.pt", declared(4, 3))
