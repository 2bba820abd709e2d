"""Tests of the kinds of constraints."""
