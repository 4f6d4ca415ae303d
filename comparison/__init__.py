"""What networks cost and how well they did: the table of all of them, and of one.

`python -m comparison` prints the networks side by side: their published errors
(published.py) and their stored costs (counts.py). counting.py traces a network to count
its layers, and summarize.py prints those of the network that a config trains.
"""
