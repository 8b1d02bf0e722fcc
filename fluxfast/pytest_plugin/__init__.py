"""The pytest plugin: options and hooks, and the session that plans, records, judges and prints."""
