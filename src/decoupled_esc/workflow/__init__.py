"""Profiles, stages, the result store, provenance, the book and the command line."""
