"""The results of every night: stored, queried, and searched for change points. No torch."""
