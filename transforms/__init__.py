"""Turns a stored image into the pixels that a network is trained or tested on.

decode.py, resizing.py and policies.py work on the host, on one image at a time, and
draw from a numpy generator. augment.py and whitening.py work inside jit, on batches of
one size. preprocessing.py joins them into the host's view and the network's input.
"""
