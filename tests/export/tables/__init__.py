"""Tests of Q-tables as people save them."""
