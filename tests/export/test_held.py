"""What modules keep: state that changes their answers is refused, what they merely leave behind is not."""

import collections
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

from export.errors import CheckpointRefused
from export.held import own_copy
from export.module import of_module
from tests.export.test_module import CHOICE, normal

torch.set_num_threads(1)
Step = Callable[["Keeping", torch.Tensor], torch.Tensor]


class Keeping(nn.Module):
    """Has something beside its layer, and does something with it at each step."""

    def __init__(self, step: Step, kept: object = None) -> None:
        super().__init__()
        self.layer, self.step, self.kept = nn.Linear(4, 3), step, kept
        self.register_buffer("mark", torch.zeros(4), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.step(self, x)


def largest(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Divide by the largest number so far: the same question twice has the same answer."""
    assert isinstance(it.kept, torch.Tensor)
    it.kept = torch.maximum(it.kept, x.abs().amax(0))
    found: torch.Tensor = it.layer(x / it.kept)
    return found


def largest_marked(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Keep the largest number in a buffer that is not saved."""
    it.mark = torch.maximum(it.get_buffer("mark"), x.abs().amax(0))
    found: torch.Tensor = it.layer(x / (it.mark + 1))
    return found


def largest_listed(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Keep the largest number in a list."""
    assert isinstance(it.kept, list)
    it.kept[0] = torch.maximum(it.kept[0], x.abs().amax(0))
    found: torch.Tensor = it.layer(x / (it.kept[0] + 1))
    return found


def queued(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Look at the observation before, as frame stacks within modules do."""
    assert isinstance(it.kept, collections.deque)
    it.kept.append(x)
    found: torch.Tensor = it.layer(x - it.kept[0])
    return found


def counted(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Answer otherwise from the fortieth call on."""
    assert isinstance(it.kept, int)
    it.kept += 1
    found: torch.Tensor = it.layer(x)
    return found if it.kept < 40 else -found


def recurrent(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Carry the answer on."""
    it.kept = it.layer(x) if it.kept is None else it.layer(x) + 0.5 * it.kept  # type: ignore[operator]
    return it.kept  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("step", "kept", "name"),
    [
        (largest, torch.zeros(4), "kept"),
        (largest_marked, None, "mark"),
        (largest_listed, [torch.zeros(4)], "kept"),
        (queued, collections.deque([torch.zeros(4)], 2), "kept"),
        (counted, 0, "kept"),
        (recurrent, None, "kept"),
    ],
)
def test_a_module_that_answers_by_what_it_kept_is_refused(step: Step, kept: object, name: str) -> None:
    """States in attributes, lists, queues, counters and buffers that no file would have."""
    module = Keeping(step, kept)

    with pytest.raises(CheckpointRefused, match=rf"the module changes {name} when it is run, so that its answer"):
        of_module(module, CHOICE)


def watched(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Leave the answer where somebody may look at it."""
    found: torch.Tensor = it.layer(x)
    it.kept = found
    return found


def tallied(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Count the calls, for nothing."""
    assert isinstance(it.kept, int)
    it.kept += 1
    found: torch.Tensor = it.layer(x)
    return found


def logged(it: Keeping, x: torch.Tensor) -> torch.Tensor:
    """Note what was seen."""
    assert isinstance(it.kept, list)
    it.kept.append(float(x.detach().sum()))
    found: torch.Tensor = it.layer(x)
    return found


@pytest.mark.parametrize(("step", "kept"), [(watched, None), (tallied, 0), (logged, [])])
def test_what_a_module_leaves_behind_and_never_reads_may_stay(step: Step, kept: object) -> None:
    """An answer kept to be looked at, a count and a log are no state: the module answers the same without them."""
    module = Keeping(step, kept)

    found = of_module(module, CHOICE).answer({"obs": normal(20, 4).numpy()})

    assert torch.allclose(torch.from_numpy(found["q_values"].copy()), module.layer(normal(20, 4)), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.utils.spectral_norm(nn.Linear(4, 3)),
        lambda: Keeping(watched, nn.Linear(4, 3).weight * 2),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
    ],
    ids=["spectral_norm", "an attribute", "parametrised"],
)
def test_a_module_with_tensors_that_were_worked_out_is_copied(make: Callable[[], nn.Module]) -> None:
    """Torch copies no tensor that came of others with gradients; its numbers are copied."""
    module = make()
    module(normal(2, 4))

    copied = own_copy(module)

    assert torch.allclose(copied(normal(5, 4)), module.eval()(normal(5, 4)))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(4, 3, device="meta"), r"'weight' has no numbers yet \(a lazy layer, or the meta device\)"),
        (nn.LazyLinear(3), r"'weight' has no numbers yet"),
        (Keeping(watched, threading.Lock()), r"cannot be copied: cannot pickle '_thread.lock' object"),
        (torch.tanh, r"is a builtin_function_or_method, expected a torch.nn.Module"),
        (torch.jit.ScriptModule(), r"is TorchScript: save it with torch.jit.save"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_module_without_numbers_or_that_cannot_be_copied_is_refused(module: nn.Module, message: str) -> None:
    """Layers that nobody has filled, and what is no module, are sentences."""
    with pytest.raises(CheckpointRefused, match=message):
        of_module(module, CHOICE)
