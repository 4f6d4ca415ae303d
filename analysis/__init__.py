"""Looks inside a trained network: what its layers do and what its answers rest on.

stages.py finds where to look in any network; retrieval.py searches by features;
attribution.py says which parts of an image count; pictures.py draws, with tiles.py for
many small images; inspection.py does all of it for a run (--mode=inspect). predict.py
classifies image files, and curves.py draws training curves.
"""
