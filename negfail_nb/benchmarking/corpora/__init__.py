"""Questions and the passages that they are asked about."""
