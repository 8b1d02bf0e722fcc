"""Mutate every file that is read and feed it to its readers: `python -m tests.fuzz`.

A case passes if the reader refuses the file with an error that can be acted on, or accepts it with
sane output. A traceback, a hang or a crash of the process is a failure.
"""
