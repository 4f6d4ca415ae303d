"""Turns a config into objects and a run directory."""
