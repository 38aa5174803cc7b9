"""From the trained model to the graphs that are served, and the requests that prove them equal."""
