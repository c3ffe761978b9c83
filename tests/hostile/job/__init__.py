"""The hostile job's own program. Standard library only: it runs on the host's Python, as a step of a job."""
