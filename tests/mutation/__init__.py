"""Mutation testing: the tests of the guards have to notice small changes of what they test."""
