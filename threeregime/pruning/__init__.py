"""Pruning and quantisation of the weights of a fleet."""
