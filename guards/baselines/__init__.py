"""Baselines: proposers that answer where the policy cannot, each a class of the union at the bottom.

None of them is trusted: what they propose passes the same shield as the policy's answer.
"""

from typing import Annotated

from pydantic import Field

from guards.baselines.baseline import KEPT, Baseline, Propose, Remember
from guards.baselines.controllers import Pid, Proportional, Threshold
from guards.baselines.lookup import Constant, Hold, Lookup, Policy, Rules

__all__ = ["KEPT", "AnyBaseline", "Baseline", "Constant", "Policy", "Propose", "Remember", "Rules"]

AnyBaseline = Annotated[
    Constant | Hold | Rules | Threshold | Proportional | Pid | Lookup | Policy, Field(discriminator="kind")
]
