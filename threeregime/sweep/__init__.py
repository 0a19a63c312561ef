"""Sweeps: computing an experiment, fleet by fleet."""
