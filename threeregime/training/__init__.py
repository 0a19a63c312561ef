"""Training of a fleet."""
