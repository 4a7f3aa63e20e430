"""The GPU's table of sublayers: our own CUDA kernels, and cuBLAS for the products of matrices."""
