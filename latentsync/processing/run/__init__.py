"""Carrying a plan out with Ray Data: workers, resume, the run lock and progress."""
