"""Primary, followers and network in one process, in virtual time: a seed replays exactly."""
