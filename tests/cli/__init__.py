"""The command line, the README and the examples."""
