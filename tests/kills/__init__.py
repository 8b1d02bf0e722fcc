"""Kill every command that writes at each of its file events: `python -m tests.kills`.

A kill passes if every file that was there is unchanged or completely new, nothing is lost that the
command had reported, and the next run of the command succeeds and leaves nothing else behind.
"""
