"""scipy.special: softmax, log_softmax and logsumexp of float16 lose everything where the sum exceeds 65504.

70000 equal numbers: softmax is 1/70000 = 1.43e-5 (a float16 subnormal), log_softmax -11.16, logsumexp of ones
12.16, all of which float16 has. The sum of the exponentials, 70000, is rounded to float16 on its way and
becomes inf.
"""

import math

import numpy as np
import scipy
from scipy import special

np.seterr(all="ignore")
print("scipy", scipy.__version__, "numpy", np.__version__)
ones = np.ones(70000, np.float16)
print(f"softmax of 70000 ones, float16: expected {np.float16(1 / 70000)}, got {special.softmax(ones)[0]}")
print(
    f"log_softmax of 70000 ones, float16: expected {np.float16(-math.log(70000))}, got {special.log_softmax(ones)[0]}"
)
print(f"logsumexp of 70000 ones, float16: expected {np.float16(1 + math.log(70000))}, got {special.logsumexp(ones)}")
