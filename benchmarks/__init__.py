"""Benchmarks: speed as ratios within one run. They are not tests."""
