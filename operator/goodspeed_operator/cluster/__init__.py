"""The operator's only I/O: the Kubernetes API, the leader's Lease, and scraped metrics."""
