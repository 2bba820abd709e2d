"""Tests of service.decision."""
