"""Scores images by one view or a paper's protocol, and turns scores into results."""
