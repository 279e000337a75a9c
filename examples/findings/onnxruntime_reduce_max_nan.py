"""ONNX Runtime: ReduceMax and ReduceMin skip NaN, unless it comes first; MaxPool skips it.

The results depend on the order of the elements. ONNX's reference (NumPy's maximum) and ONNX Runtime's own Max
operator give NaN for each of these, and so a NaN that a model produces disappears here.
"""

import numpy as np
import onnxruntime
from onnx_graph import run

print("onnxruntime", onnxruntime.__version__)
axis = np.array([1], np.int64)
for values in ([np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [1.0, 2.0, np.nan]):
    x = np.array([values], np.float32)
    print(f"ReduceMax of {values}: expected nan, got {run('ReduceMax', x, axis)[0, 0]}")
    print(f"ReduceMin of {values}: expected nan, got {run('ReduceMin', x, axis)[0, 0]}")
    print(f"MaxPool of {values}: expected nan, got {run('MaxPool', x[None], kernel_shape=[3])[0, 0, 0]}")
print(f"Max(1, nan): expected nan, got {run('Max', np.array([1], np.float32), np.array([np.nan], np.float32))[0]}")
