"""Tables of results and where they come from."""
