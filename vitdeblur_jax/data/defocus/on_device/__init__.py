"""Synthetic defocus as pure JAX functions: the same scenes and optics as in NumPy, on the device.

Shapes are fixed, so that everything can be jitted and vmapped: the largest defocus radius is a
constant of the program, and gives the number of slices and the sizes of kernels.
"""
