"""Tests of the bench and the locustfile."""
