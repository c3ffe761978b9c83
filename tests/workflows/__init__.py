"""Workflows run without GitHub: their own steps, in their own order, on a host of ours."""
