"""NumPy: quantiles and medians of finite numbers are infinite where a difference or a sum of two of them overflows.

The median of (60000, -60000) is 0 and that of (3e38, 3e38) is 3e38. np.percentile interpolates as a + (b - a)
t, and b - a = 120000 exceeds float16's 65504; np.median takes the mean of the middle two, whose sum exceeds
float32's 3.4e38.
"""

import numpy as np

np.seterr(all="ignore")
print("numpy", np.__version__)
half, single = np.float16, np.float32
for text, got, expected in (
    ("np.percentile((-60000, 60000), 50), float16", np.percentile(np.array([-60000, 60000], half), 50), 0),
    ("np.percentile((-3e38, 3e38), 50), float32", np.percentile(np.array([-3e38, 3e38], single), 50), 0),
    ("np.median((3e38, 3e38)), float32", np.median(np.array([3e38, 3e38], single)), 3e38),
):
    print(f"{text}: expected {expected}, got {got}")
