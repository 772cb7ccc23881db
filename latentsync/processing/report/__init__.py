"""What a run did, as numbers, charts and one HTML page."""
