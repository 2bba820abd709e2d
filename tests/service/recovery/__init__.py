"""Tests of service.recovery."""
