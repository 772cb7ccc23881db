"""One job from files to file: checks, timeline, the folder from which it resumes, pass 2, worker processes, report."""
