"""The report of a run: numbers, charts and one HTML page."""
