"""A hostile job: what it tries, and how it is judged from outside."""
