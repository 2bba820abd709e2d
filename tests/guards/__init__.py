"""Tests of everything that may overrule a policy."""
