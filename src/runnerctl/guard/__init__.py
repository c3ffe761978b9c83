"""The guard: root's half of every job. It admits jobs, cleans up behind them and writes them down."""
