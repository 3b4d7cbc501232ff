"""Modules of the methods' own: what stands between a student's features and its teacher's, memories, autoencoders.

They are apart from the methods because they import torch, which a method's file does only where it builds or computes
something: plans are made without it. Weights are initialised as in the code of the CRD benchmark: by PyTorch's own
rules, unless something else is said.
"""
