"""Data sets as tasks: examples, batches, losses and errors."""
