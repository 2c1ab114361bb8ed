"""Metrics, one file each; adding one needs an entry in the registry or an entry point, nothing else."""
