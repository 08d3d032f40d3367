"""A sweep: its jobs, each a process tree of its own, its launchers, its search and its table."""
