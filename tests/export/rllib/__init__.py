"""Tests of RLlib's checkpoints."""
