"""The examples that are more than a page, and what their docstrings promise."""
