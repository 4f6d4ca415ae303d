"""How the networks' operations are computed. kernels/ops.py is their interface.

All other packages go through it, so no other file has to know which program
computes a convolution, a pool or a sum on the processor at hand. Programs also import
kernels/huge_pages.py, which must run before anything else is imported.
"""
