"""Tests of service.versions."""
