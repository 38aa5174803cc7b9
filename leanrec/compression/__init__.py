"""Methods that make the served graphs smaller or faster, recipes made of them, and the choice between recipes."""
