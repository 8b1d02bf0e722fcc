"""What a run came to, for people: a page, a summary for pull requests, and JSON. No torch."""
