"""The quality of kernels in numbers that need no GPU: `hal ptx figures` prints kernel x target.

Every number comes from machine code: what ptxas says of it, its main loop (matmul) or the path of a thread (rows), and
a small simulation of the loop. docs/nvidia_ptx.md says what each one means.

cases.py     the kernels that are measured, at which sizes
measure.py   machine code to figures
goals.py     what the figures have to reach
peers.py     the same figures of Triton's kernels
rows.py      all of them side by side, and the file of them
"""
