"""Constraints: what may not be done, one file for each kind.

The configuration class is the object: what is parsed from ``policy.toml`` says as a term what it forbids. To add a
kind, write its file and name its class in the union, which ``guards.abstention`` joins with doubts about answers.
"""

from guards.constraints.bounds import Bounds as Bounds
from guards.constraints.budget import Budget as Budget
from guards.constraints.constraint import Constraint as Constraint
from guards.constraints.constraint import Mode as Mode
from guards.constraints.cooldown import Cooldown as Cooldown
from guards.constraints.linear import Linear as Linear
from guards.constraints.max_switches import MaxSwitches as MaxSwitches
from guards.constraints.rate_limit import RateLimit as RateLimit
from guards.constraints.rule import Rule as Rule

OverActions = Rule | Cooldown | Bounds | Linear | RateLimit | Budget | MaxSwitches
