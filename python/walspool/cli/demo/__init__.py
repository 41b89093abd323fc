"""``walspool demo``: a real tree of files through the log, with crashes on the way, and back."""
