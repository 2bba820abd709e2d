"""The HPA rule gives the numbers that one gets by hand from Kubernetes' documentation."""

import pytest

from examples.autoscaler.dynamics import State
from examples.autoscaler.hpa import Hpa, recommended


@pytest.mark.parametrize(
    ("ready", "pending", "cpu", "wanted"),
    [
        (4, 0, 0.9, 6),  # ceil(4 * 0.9 / 0.6) = 6
        (4, 0, 0.3, 2),  # ceil(4 * 0.5) = 2
        (10, 0, 0.61, 10),  # 1.7 % over: within the tolerance
        (10, 0, 0.655, 10),  # 9.2 % over: within the tolerance
        (10, 0, 0.67, 12),  # 11.7 % over: ceil(11.17) = 12
        (10, 0, 0.545, 10),  # 9.2 % under: within the tolerance
        (10, 0, 0.53, 9),  # 11.7 % under: ceil(8.83) = 9
        (4, 2, 0.9, 6),  # the two that start count as idle: 4 * 0.9 / 6 = 0.6 is the target
        (4, 1, 0.9, 6),  # 4 * 0.9 / 5 = 0.72, ratio 1.2: ceil(5 * 1.2) = 6
        (4, 2, 0.95, 6),  # ratio 1.06: within the tolerance
        (4, 2, 0.3, 2),  # on the way down only ready replicas count: ceil(4 * 0.5)
    ],
)
def test_the_recommendation_is_the_documented_formula(ready: int, pending: int, cpu: float, wanted: int) -> None:
    """desired = ceil(current * cpu / target) at a target of 60 %, with tolerance and pending replicas."""
    assert recommended(ready, pending, cpu, 0.6) == wanted


def test_scaling_up_is_not_held_back() -> None:
    """The whole step up is taken at once."""
    assert Hpa(0.6).change(State(ready=4, cpu=0.9)) == 2


def test_scaling_down_waits_for_the_highest_recommendation_of_five_minutes() -> None:
    """One busy minute keeps its replicas for as long as it is among the last five."""
    hpa = Hpa(0.6)
    changes = [hpa.change(State(ready=6, cpu=0.6))] + [hpa.change(State(ready=6, cpu=0.3)) for _ in range(5)]

    assert changes == [0, 0, 0, 0, 0, -3]


def test_the_repr_reads_like_a_status_line() -> None:
    """Target and memory are visible."""
    hpa = Hpa(0.6)
    hpa.change(State(ready=4, cpu=0.9))

    assert repr(hpa) == "<Hpa target 60%, recent recommendations [6]>"
