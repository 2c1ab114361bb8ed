"""Executors place cells on workers; all of them run the same command."""
