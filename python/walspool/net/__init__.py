"""A log over the network: what serves it, and what follows it."""
