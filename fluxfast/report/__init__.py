"""The report: results as an HTML page, a Markdown summary and JSON. No torch."""
