"""Audio tracks: read as samples, mixed down, and copied or encoded into an output."""
