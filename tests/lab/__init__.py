"""The laboratory: records what the package does to its files, and builds what a crash could leave of it."""
