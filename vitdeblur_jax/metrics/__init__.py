"""Image metrics: pure functions of arrays.

| metric | range | better | reference |
|---|---|---|---|
| `peak_signal_noise_ratio` | dB, infinite for identical images | higher | needed |
| `structural_similarity` | -1 to 1, 1 for identical images | higher | needed |
| `mean_absolute_error` | 0 to 1, 0 for identical images | lower | needed |

All take RGB in [0, 1], channels last, and compute in the dtype they are given: float64 (under
`jax.enable_x64`) where figures are to be compared with other people's, float32 in a training loop.
"""

from vitdeblur_jax.metrics.pixelwise import mean_absolute_error as mean_absolute_error
from vitdeblur_jax.metrics.pixelwise import peak_signal_noise_ratio as peak_signal_noise_ratio
from vitdeblur_jax.metrics.similarity import structural_similarity as structural_similarity
