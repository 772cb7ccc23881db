"""Golden cases: recorded answers of the reference implementation, re-computed by this project's own code."""
