"""The contract of a core, on both of them."""
