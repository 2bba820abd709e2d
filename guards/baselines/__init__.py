"""Baselines: proposers that answer where the policy cannot, each a class of the union at the bottom.

None of them is trusted: what they propose passes the same shield as the policy's answer.
"""

from typing import Annotated

from pydantic import Field

from guards.baselines.baseline import KEPT as KEPT
from guards.baselines.baseline import Baseline as Baseline
from guards.baselines.baseline import Propose as Propose
from guards.baselines.baseline import Remember as Remember
from guards.baselines.controllers import Pid, Proportional, Threshold
from guards.baselines.lookup import Constant as Constant
from guards.baselines.lookup import Hold, Lookup
from guards.baselines.lookup import Policy as Policy
from guards.baselines.lookup import Rules as Rules

AnyBaseline = Annotated[
    Constant | Hold | Rules | Threshold | Proportional | Pid | Lookup | Policy, Field(discriminator="kind")
]
