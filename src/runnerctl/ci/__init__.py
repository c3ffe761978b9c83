"""What a repository needs so that its CI tests on its own GPU machines, and what is wrong with it."""
