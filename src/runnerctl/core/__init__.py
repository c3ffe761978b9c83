"""Pure rules: no I/O, no clock, no environment. Standard library and msgspec only."""
