"""Generators G: how each is built and trained."""
