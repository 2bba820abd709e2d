"""Tests of the language of constraints."""
