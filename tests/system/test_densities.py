"""Propensities of what the service draws, against the distributions that policies are trained with."""

from typing import Any

import numpy as np
import torch

from export.spec import Box, Field, Squash
from guards.projection import Region
from service.decision.explore.gaussian import Gaussian
from tests.acting import BOUNDED
from tests.service.decision.explore.drawing import Drawn


def drawn(space: Box, head: Any, uniform: Any, *, squash: Squash = "none") -> Drawn:
    """Draw from heads[N, 2D]."""
    gaussian, region = Gaussian(space, squash), Region(space.low, space.high)
    return Drawn([gaussian.draw(*one) for one in zip(head, [region] * len(head), uniform.tolist(), strict=True)])


def of(low: float | None, high: float | None, count: int = 1) -> Box:
    """Numbers that all have these bounds."""
    return Box(fields=tuple(Field(name=f"n{i}", low=low, high=high) for i in range(count)))


def test_densities_of_plain_numbers() -> None:
    """To 1e-9 of Normal's, summed over the numbers."""
    rng = np.random.default_rng(4)
    mean, std = rng.normal(size=(300, 4)) * 5, np.exp(rng.normal(size=(300, 4)) * 2)

    draw = drawn(of(None, None, 4), np.concatenate([mean, std], axis=1), rng.random((300, 4)))

    normal: Any = torch.distributions.Normal(torch.tensor(mean), torch.tensor(std))
    expected = normal.log_prob(torch.tensor(draw.action)).sum(1).numpy()
    np.testing.assert_allclose(np.log(draw.propensity), expected, rtol=1e-9, atol=1e-9)


def test_densities_of_squashed_numbers() -> None:
    """To 1e-9 of a normal's through tanh and an affine map to the bounds."""
    rng = np.random.default_rng(5)
    mean, std = rng.normal(size=(300, 2)), np.exp(rng.normal(size=(300, 2)) - 1)

    draw = drawn(BOUNDED, np.concatenate([mean, std], axis=1), rng.random((300, 2)), squash="tanh")

    kinds = torch.distributions
    middle, half = (torch.tensor(numbers, dtype=torch.float64) for numbers in ([0, 5], [2, 5]))
    affine = kinds.AffineTransform(middle, half)
    normal: Any = kinds.Normal(torch.tensor(mean), torch.tensor(std))
    squashed: Any = kinds.TransformedDistribution(normal, [kinds.TanhTransform(), affine])
    # Torch inverts tanh, which loses digits near the bounds; ours keeps the number before it.
    inside = (np.abs((draw.action - [0, 5]) / [2, 5]) < 0.9999).all(axis=1)
    expected = squashed.log_prob(torch.tensor(draw.action)).sum(1).numpy()
    assert inside.sum() > 200
    np.testing.assert_allclose(np.log(draw.propensity)[inside], expected[inside], rtol=1e-9, atol=1e-9)
    assert set(draw.measure) == {"density"}


def test_masses_beyond_the_bounds() -> None:
    """To 1e-9 of Normal's cumulative distribution."""
    rng = np.random.default_rng(6)
    mean, std = rng.normal(size=(500, 1)) * 3, np.exp(rng.normal(size=(500, 1)))

    draw = drawn(of(-1, 2), np.concatenate([mean, std], axis=1), rng.random((500, 1)))

    normal: Any = torch.distributions.Normal(torch.tensor(mean), torch.tensor(std))
    low, high = normal.cdf(torch.tensor(-1.0)).numpy(), 1 - normal.cdf(torch.tensor(2.0)).numpy()
    density = normal.log_prob(torch.tensor(draw.action)).exp().numpy()
    expected = np.where(draw.action == -1, low, np.where(draw.action == 2, high, density))[:, 0]
    np.testing.assert_allclose(draw.propensity, expected, rtol=1e-9)
    assert set(draw.measure) == {"mass", "density"}
