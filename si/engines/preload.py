"""What workers of the transformers engine need, imported once in the fork server."""

import os

# Threads that spin while they wait for each other stall a machine that has other work, tenfold.
# OpenMP reads this when torch loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Else torch starts CUDA where it is only asked whether there is a GPU, and no fork could use one.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import accelerate
import transformers.models.qwen2_vl.image_processing_qwen2_vl
import transformers.models.qwen2_vl.modeling_qwen2_vl
import transformers.models.qwen2_vl.processing_qwen2_vl
import transformers.models.qwen2_vl.video_processing_qwen2_vl

import si.engines.hf
import si.engines.trainer
import si.engines.transformers
from si.embedded import EMBEDDED_POLICY

# Finding a processor's class walks through all models' video processors, once per process.
# Nothing here computes: a process that forks must not have started torch's threads.
si.engines.hf.load_processor(EMBEDDED_POLICY)
