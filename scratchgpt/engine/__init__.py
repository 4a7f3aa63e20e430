"""Execution: runs the steps of a training by a plan, on the cores of a CPU or on a GPU."""
