"""Weights in and out: the project's own export, and the formats of others."""
