"""The history: figures of every night in SQLite, their series and change points. No torch."""
