"""The stages: what a worker does. Each is a row here and a module of the same name beside."""

from si.stages.stage import Stage

STAGES = {
    stage.name: stage
    for stage in (
        Stage("explore", image="explore", sharded=True, gpus=True),
        Stage("verify", schema=2, sharded=True),
        Stage("levels"),
        Stage("resample"),
        Stage("rebalance"),
        Stage("train", image="train", gpus=True),
        Stage("evaluate"),
        Stage("report", schema=2),
    )
}
