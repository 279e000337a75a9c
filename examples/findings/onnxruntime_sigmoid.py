"""ONNX Runtime: Sigmoid has an absolute error of about 5e-8 and no relative accuracy: sigmoid(-18) is 0 in float32.

sigmoid(-18) = 1 / (1 + exp(18)) = 1.52e-8, sigmoid(-37) = 8.5e-17: both far from underflow. float32 gives 0
from -18 on, float64 from -37 on, and float64 has eight right digits at -15. The logarithm of the result,
which losses take, is -inf.
"""

import math

import numpy as np
import onnxruntime
from onnx_graph import run

print("onnxruntime", onnxruntime.__version__)
for dtype in (np.float32, np.float64):
    for value in (-5.0, -15.0, -18.0, -37.0, -80.0):
        got = run("Sigmoid", np.full(8, value, dtype))[0]
        print(f"Sigmoid({value:g}), {dtype.__name__}: expected {1 / (1 + math.exp(-value)):.10g}, got {got:.10g}")
