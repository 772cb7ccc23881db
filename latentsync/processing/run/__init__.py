"""Running a plan with Ray Data: workers, resume, the run lock and progress."""
