"""Fleets: many nets of one architecture that run as one program."""
