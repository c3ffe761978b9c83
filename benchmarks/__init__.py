"""Measurements: ``python -m benchmarks.converge`` prints its tables. Never part of the tests."""
