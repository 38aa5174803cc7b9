"""Features by ibis, the training set and the online rows by Feast."""

# Before Feast, whose import tells prometheus_client to keep every counter of the process in shared files:
# the gateway's counters would be slower there, and two registries of one process would count together.
import prometheus_client  # noqa: F401
