"""Rows of `rebalance`, in the hands of the tool that they are for."""

import json
from pathlib import Path

import pytest

import si
from si.embedded import EMBEDDED_POLICY
from tests.unit.rollout_files import verl

trl = pytest.importorskip("trl", reason="trl is not installed: make test-engines")


def test_sft_trains_on_the_rows(tmp_path: Path) -> None:
    """TRL's SFTTrainer takes the file as it is: a loss on completions only, which falls."""
    from datasets import load_dataset
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    out = tmp_path / "train.jsonl"
    made = si.rebalance(verl(tmp_path / "verl"), "rp", out)
    cache = str(tmp_path / "cache")
    rows = load_dataset("json", data_files=str(out), split="train", cache_dir=cache)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_POLICY)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), **shape, **heads))
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=6,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=0,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    labels = trainer.train_dataset[0]["labels"]
    trained = tokenizer.decode([label for label in labels if label != -100])
    said = json.loads(out.read_text().splitlines()[0])["completion"][0]["content"]
    assert len(trainer.train_dataset) == made.rows
    assert said in trained and -100 in labels  # the completion, and the prompt left out
    trainer.train()
    losses = [step["loss"] for step in trainer.state.log_history if "loss" in step]
    assert len(losses) == 6 and losses[-1] < losses[0], json.dumps(losses)
