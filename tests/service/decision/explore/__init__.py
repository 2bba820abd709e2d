"""Tests of service.decision.explore."""
