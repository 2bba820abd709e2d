"""Kinds: every constraint and every doubt that a configuration may have, as one union.

To add one, write its class and name it here.
"""

from typing import Annotated

from pydantic import Field

from guards.boxes import Linear
from guards.constraints import Bounds, Cooldown, Rule
from guards.doubts import Confidence, Fresh, Novelty, Quorum
from guards.histories import Budget, MaxSwitches, RateLimit

AnyConstraint = Annotated[
    Rule | Cooldown | Bounds | Linear | RateLimit | Budget | MaxSwitches | Quorum | Confidence | Novelty | Fresh,
    Field(discriminator="kind"),
]
