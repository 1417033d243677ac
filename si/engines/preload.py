"""Imports that workers of the transformers engine need, done once in the fork server."""

import os

from si.engines.threads import sleep_while_waiting

sleep_while_waiting()  # before torch is imported
# Otherwise torch starts CUDA just to find out whether there is a GPU, and no fork can use one.
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

# Finding a processor's class walks through the video processors of all models, once per process.
# Nothing here computes: a process that forks must not have started torch's threads.
si.engines.hf.load_processor(EMBEDDED_POLICY)
