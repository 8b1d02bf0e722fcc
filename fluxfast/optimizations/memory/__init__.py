"""Memory formats."""
