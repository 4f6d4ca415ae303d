"""From a stored image to the pixels that a network is trained or tested on.

decode.py, resizing.py and policies.py work on the host, on one image at a time, and
draw from a numpy generator. augment.py and whitening.py work inside jit, on batches of
one size. preprocessing.py joins them: what the host shows, and the network's input.
"""
