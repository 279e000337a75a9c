"""NumPy: np.linalg.norm and np.std square before they take the root, so results that exist become inf or 0.

|(300, 400)| = 500, but 300 * 300 = 90000 exceeds float16's 65504. In float32 the same happens at 1e20 and,
towards 0, at 1e-23. BLAS's nrm2 and np.hypot scale first. A float32 sum of squares would do for float16.
"""

import numpy as np

np.seterr(all="ignore")
print("numpy", np.__version__)
half, single = np.float16, np.float32
for text, got, expected in (
    ("np.hypot(300, 400), float16", np.hypot(half(300), half(400)), 500),
    ("np.linalg.norm((300, 400)), float16", np.linalg.norm(np.array([300, 400], half)), 500),
    ("np.std((300, -300)), float16", np.std(np.array([300, -300], half)), 300),
    ("np.linalg.norm((3e30, 4e30)), float32", np.linalg.norm(np.array([3e30, 4e30], single)), 5e30),
    ("np.linalg.norm((3e-30, 4e-30)), float32", np.linalg.norm(np.array([3e-30, 4e-30], single)), 5e-30),
):
    print(f"{text}: expected {expected}, got {got}")
