"""One file a compression method, and the choice among recipes."""
