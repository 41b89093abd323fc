"""Everything that makes a log a primary's: who follows it, what they still need, who holds a commit."""
