"""Detection: annotated boxes, what a detector is trained towards, and its scores."""
