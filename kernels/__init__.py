"""How the networks' operations are computed; kernels/ops.py is the door to this room.

Everything outside goes through that door, so no other file needs to know which program
computes a convolution, a pool or a sum on the processor at hand.
"""
