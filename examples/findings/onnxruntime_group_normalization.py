"""ONNX Runtime: GroupNormalization is NaN, or wrong by factors of hundreds, for data of mean 1e4 and deviation 1.

The mean of squares minus the square of the mean: both are 1e8, where neighbouring float32 numbers are 8
apart, and their difference, which should be 1, is rounding. Where it is below 0 the root is NaN.
LayerNormalization and InstanceNormalization of the same data are right to three digits.
"""

import numpy as np
import onnxruntime
from onnx_graph import run

print("onnxruntime", onnxruntime.__version__)
for mean in (0.0, 1e4):
    x = (np.random.default_rng(0).standard_normal((2, 4, 8, 8)) + mean).astype(np.float32)
    wide = x.astype(np.float64).reshape(2, 2, -1)
    normal = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    expected = normal.reshape(x.shape)[0, 0, 0, :3]
    got = run("GroupNormalization", x, np.ones(4, np.float32), np.zeros(4, np.float32), num_groups=2)
    print(f"GroupNormalization, 2 groups, mean {mean:g}: expected {expected}, got {got[0, 0, 0, :3]}")
    error = np.max(np.abs(got - normal.reshape(x.shape)))
    print(f"  largest error: expected about 1e-3 or less, got {error:.3g}")
