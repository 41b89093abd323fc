"""``walspool bench``: how fast the log is on a disk of yours, beside that disk by itself."""
