"""Tests of the adoption of other exporters' files."""
