"""How images are scored: one view or a paper's protocol, and what is made of it."""
