"""NumPy: whether a float16 sum is right depends on the axis and on the function.

Sums along the last axis of a contiguous array are kept in float32 and rounded once: 5000 ones are 5000. Along
any other axis, and in einsum of matrices, they are kept in float16, where 2048 + 1 = 2048: the sum stops
there. np.mean knows (it sums in float32); np.var and np.nanmean do not, so they are wrong by more than half.
"""

import numpy as np

print("numpy", np.__version__)
ones, values = np.ones((5000, 2), np.float16), np.tile(np.array([[0], [2]], np.float16), (2500, 2))
for text, got, expected in (
    ("np.sum(ones.T, axis=1)", np.sum(np.ascontiguousarray(ones.T), axis=1)[0], 5000),
    ("np.sum(ones, axis=0)", np.sum(ones, axis=0)[0], 5000),
    ("np.mean(ones, axis=0)", np.mean(ones, axis=0)[0], 1),
    ("np.nanmean(ones, axis=0)", np.nanmean(ones, axis=0)[0], 1),
    ("np.var(values, axis=0) of 0, 2, 0, 2 …", np.var(values, axis=0)[0], 1),
    ("np.matmul(ones.T, ones)", np.matmul(ones.T, ones)[0, 0], 5000),
    ("np.einsum('ji,jk->ik', ones, ones)", np.einsum("ji,jk->ik", ones, ones)[0, 0], 5000),
):
    print(f"{text}, 5000 x 2 float16: expected {expected}, got {got}")
