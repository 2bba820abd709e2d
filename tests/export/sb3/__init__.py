"""Tests of the Stable-Baselines3 source, each family against the real library."""
