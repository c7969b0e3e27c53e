"""The GPU benchmark's loop, on the CPU and tiny: it learns, and its two halves agree."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.training import Size

TINY = Size("tiny", hidden=32, layers=2, heads=4, vocabulary=64, sequences=0)


def test_the_loop_measures_every_stage_and_the_halves_agree_in_float32(tmp_path: Path) -> None:
    plan = gpu.Plan(TINY, "cpu", torch.float32, steps=3, prompts=2, group=4, prompt_tokens=8, new_tokens=16)
    rows = {str(row[0]): row[1] for row in gpu.loop(plan, tmp_path)}
    assert float(rows["sampler against trainer, mean |Δ logprob|"]) < 1e-5  # type: ignore[arg-type]
    assert float(rows["torch.float32 against float32, mean |Δ logprob|"]) == 0.0  # type: ignore[arg-type]
    assert all(
        float(rows[name]) > 0  # type: ignore[arg-type]
        for name in ("sampling, tokens/s", "forward_backward, tokens/s", "optim_step, ms")
    )


def test_bfloat16_stays_near_float32(tmp_path: Path) -> None:
    plan = gpu.Plan(TINY, "cpu", torch.bfloat16, steps=1, prompts=2, group=2, prompt_tokens=8, new_tokens=16)
    rows = {str(row[0]): row[1] for row in gpu.loop(plan, tmp_path)}
    assert 0 < float(rows["torch.bfloat16 against float32, mean |Δ logprob|"]) < 0.05  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU; here is one")
def test_without_a_gpu_it_says_so_and_records_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    gpu.main(said.append)
    assert said == ["no CUDA device: nothing was measured"]
