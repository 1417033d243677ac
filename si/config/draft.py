"""The text of a new recipe for a model, a data set and GPUs, with comments for its reader."""

import json
from dataclasses import dataclass

from si.config.recipe import NAME
from si.untrusted import slug


@dataclass(frozen=True)
class Draft:
    """What a new recipe is for.

    Attributes:
        model: policy 0, as `model.source` takes it.
        data: as `data.source` takes it.
        gpus: how many GPUs this machine has for the run.
        gpu: their kind, such as `A100`.
        memory: gigabytes of one of them; None if unknown.
        price: per GPU-hour; 0 if unknown.
        strategy, k: of the first run.
    """

    model: str
    data: str
    gpus: int
    gpu: str
    memory: int | None
    price: float
    strategy: str
    k: int

    @property
    def name(self) -> str:
        """The recipe's name: the model's, as far as it fits."""
        whole = slug(self.model.rstrip("/").rpartition("/")[2].partition("@")[0])
        return whole.removesuffix("-instruct")[:NAME].strip("-") or "mine"


def text(draft: Draft) -> str:
    """A recipe file in YAML; every choice that the user did not make is marked as ours."""
    tiles = "internvl" in draft.model.lower()
    image, longest = (1794, 3328) if tiles else (1024, 2560)
    small = draft.memory is not None and draft.memory < ROOMY
    columns = COLUMNS if draft.data.startswith("hub:") else ""
    return TEMPLATE.format(
        name=draft.name,
        strategy=draft.strategy,
        k=draft.k,
        data=json.dumps(draft.data),
        columns=columns,
        model=json.dumps(draft.model),
        image=image,
        longest=longest,
        micro=1 if small else 4,
        gpus=draft.gpus,
        gpu=json.dumps(draft.gpu),
        price=draft.price,
    )


ROOMY = 40  # gigabytes of a GPU that trains four long examples of a 7B model at a time
COLUMNS = """
  # If columns or splits are not found by their names:
  # map: question=problem,answer=solution,images=image
  # split: train=train,validation=dev,test=test"""

TEMPLATE = r"""# Written by `si-ctl init`; "ours" marks our choices. Change what you like.
# All settings and their meanings: si-ctl config schema. Check this file: si-ctl config check FILE.
name: {name}
strategy: {strategy} # vanilla, tc, rp, ar, gr, or a composition such as gr+tc
k: {k} # K, first-round samples per query: 8 or 16 in the paper
iterations: 5 # ours
seed: 0

data:
  source: {data}{columns}
  schedule: fixed # the same queries in every iteration

model:
  source: {model} # policy 0, which is improved

sampling:
  engine: vllm
  dtype: bfloat16
  temperature: 1.0 # ours
  max_new_tokens: 1024 # ours
  image_tokens: {image} # ours: larger images are shrunk
  # Ours. Guided resampling cuts at line ends; the verifier looks in the box.
  prompt_template: |-
    {{question}}

    Think step by step and write each step on a line of its own.
    End with the final answer in \boxed{{}}.

explore:
  shard_queries: 128 # ours: the most work that a lost worker costs

train: # all of it ours
  trainer: deepspeed
  deepspeed:
    zero: 2
    gradient_checkpointing: true
  init: base # every iteration starts from policy 0
  lora: # the language model only
    r: 64
    alpha: 128
  dtype: bfloat16
  epochs: 1
  batch: 64 # examples of a step, on all GPUs together
  micro_batch: {micro} # of one GPU at a time: less if memory is short
  cache_vision: true # the same images recur up to K times
  lr: 1.0e-4
  warmup: 0.05
  weight_decay: 0.0
  max_length: {longest} # prompt, image and response; longer examples are left out and counted

levels:
  k: 16 # ours: samples of policy 0 that measure a query's level

evaluate:
  splits: [dev, test] # the best iteration is chosen on dev

place: # where it runs: none of this changes what is computed
  gpus: {gpus}
  gpu_type: {gpu}
  price_per_gpu_hour: {price:g} # of your provider; 0 for unknown
"""
