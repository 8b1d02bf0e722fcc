"""Case → measurement → result → baseline → verdict → table."""
