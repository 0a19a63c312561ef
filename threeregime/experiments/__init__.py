"""Experiments: grids of temperatures and loads under a protocol."""
