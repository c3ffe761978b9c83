"""The command line ``runnerctl``: commands, renderers, exit codes. It wires things and decides nothing."""
