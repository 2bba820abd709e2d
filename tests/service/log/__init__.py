"""Tests of service.log."""
