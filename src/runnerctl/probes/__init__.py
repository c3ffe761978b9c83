"""Reads what a host is. A probe is one read and one pure parser; what can hang runs in a child process."""
