"""Features by ibis, the training set and the online rows by Feast."""
