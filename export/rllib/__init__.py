"""Policies out of the checkpoints of RLlib's new API stack, read without RLlib and without unpickling."""

from export.rllib.checkpoint import RllibCheckpoint, read_rllib
from export.rllib.networks import of_rllib

__all__ = ["RllibCheckpoint", "of_rllib", "read_rllib"]
