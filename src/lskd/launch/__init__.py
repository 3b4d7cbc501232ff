"""Carrying out a plan: what is missing, teachers first, several runs side by side, and beside other processes that do
the same.

Several processes (one a GPU, one a cluster node) started with the same command share the work through the claims in the
store: no run is trained twice, and each process takes what is ready.
"""
