"""The Triton kernels, and the PyTorch operators that they are called by. Importing either of them imports Triton."""
