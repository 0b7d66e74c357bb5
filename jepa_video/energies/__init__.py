"""Energies: what is low when two things fit, and what keeps that from being trivially so."""
