"""How jobs are started: one process tree each."""
