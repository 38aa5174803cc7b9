"""Methods that make served graphs smaller or faster, recipes of them, and the choice between recipes."""
