"""Everything about one log on disk: its files, its writer, recovery, pruning, following."""
