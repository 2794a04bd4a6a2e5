"""The process and its devices: where to compute, CUDA graphs, the heap, files. Nothing here knows the method."""
