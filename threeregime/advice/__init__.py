"""Advice for a net of your own."""
