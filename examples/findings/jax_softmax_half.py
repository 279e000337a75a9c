"""jax.nn: softmax, log_softmax and logsumexp of float16 lose everything where the sum exceeds 65504.

70000 equal numbers: softmax is 1/70000 = 1.43e-5 (a float16 subnormal), log_softmax -11.16, logsumexp of ones
12.16. The sum is computed in float32 but rounded to float16 before it is used. In bfloat16 that rounding
costs a unit in the last place: log_softmax of 257 zeros.
"""

import math

import jax
import jax.numpy as jnp

print("jax", jax.__version__, jax.devices()[0].platform)
ones, zeros = jnp.ones(70000, jnp.float16), jnp.zeros(257, jnp.bfloat16)
print(f"softmax of 70000 ones, float16: expected {jnp.float16(1 / 70000)}, got {jax.nn.softmax(ones)[0]}")
print(
    f"log_softmax of 70000 ones, float16: expected {jnp.float16(-math.log(70000))}, got {jax.nn.log_softmax(ones)[0]}"
)
print(f"logsumexp of 70000 ones, float16: expected {jnp.float16(1 + math.log(70000))}, got {jax.nn.logsumexp(ones)}")
print(
    f"log_softmax of 257 zeros, bfloat16: expected {jnp.bfloat16(-math.log(257))}, got {jax.nn.log_softmax(zeros)[0]}"
)
