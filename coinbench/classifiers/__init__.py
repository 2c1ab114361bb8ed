"""Classifiers f: each file holds the specs of one family."""
