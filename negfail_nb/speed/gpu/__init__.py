"""07: what a GPU takes for the layers of a large Llama, measured with a truncated model.

``python -m negfail_nb.speed.gpu`` needs torch and transformers, and no weights: the time of a dense
Llama does not depend on what its weights say, and its layers are alike, so a few of them tell the
time of all. One JSON comes out, which `negfail_nb.speed.read_gpu` reads.
"""

from negfail_nb.speed.gpu.cells import GpuSettings
from negfail_nb.speed.gpu.measure import measure_gpu, measure_once

__all__ = ["GpuSettings", "measure_gpu", "measure_once"]
