"""Tests of the proof and of its answers in words."""
