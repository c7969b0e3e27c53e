"""Adapters on disk: bit for bit, and in the format that everyone else reads (the forward test loads it in PEFT)."""

import json
from pathlib import Path

import pytest
import torch

from services.model.base import load_base
from services.model.lora import Adapter, LoraSpec, init_adapter
from services.model.peft_files import CONFIG, load_adapter, save_adapter
from tests.model.random_models import randomize, save_random_model


@pytest.fixture
def adapter(tmp_path: Path) -> Adapter:
    base = load_base(str(save_random_model("untied", tmp_path / "model")))
    return randomize(init_adapter(LoraSpec(rank=4, seed=0), base.layers), 0)


def test_what_was_saved_loads_bit_for_bit(adapter: Adapter, tmp_path: Path):
    save_adapter(tmp_path / "adapter", adapter, "some/base")
    loaded = load_adapter(tmp_path / "adapter")
    assert (loaded.rank, loaded.alpha) == (adapter.rank, adapter.alpha)
    assert loaded.a.keys() == adapter.a.keys()
    for name in adapter.a:
        assert torch.equal(loaded.a[name], adapter.a[name])
        assert torch.equal(loaded.b[name], adapter.b[name])


def test_another_kind_of_adapter_is_refused(adapter: Adapter, tmp_path: Path):
    save_adapter(tmp_path / "adapter", adapter, "some/base")
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    (tmp_path / "adapter" / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ValueError, match="only plain LoRA"):
        load_adapter(tmp_path / "adapter")
