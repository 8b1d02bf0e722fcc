"""The results of every night: kept, queried, and searched for change points. No torch."""
