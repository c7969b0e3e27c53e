"""The walk through the SDK in `docs/sdk.md` runs as it stands, but for the model's name."""

import re
from pathlib import Path

from tests.sdk.guide import run_guide
from tests.stack import Stack

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"


def test_the_guide_runs_from_top_to_bottom(stack: Stack, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    code = "\n".join(blocks)
    assert len(blocks) == len(re.findall(r"^## ", GUIDE.read_text(), re.MULTILINE)), "a block a section"
    printed = run_guide(code, stack, tmp_path)
    for said in ("0 + 1? scored 1.0", "user base_model: 'no/such-model' is not served", "404", "guide-1 →"):
        assert said in printed, printed
    assert (tmp_path / "guide-adapter" / "adapter_config.json").exists()


def test_every_method_that_the_guide_names_exists() -> None:
    import rekindle
    from rekindle.checkpoints import Checkpoints
    from rekindle.datasets import Datasets
    from rekindle.rewards import Rewards
    from rekindle.runs import Runs

    known = {
        name
        for owner in (
            rekindle.TrainingClient,
            rekindle.SamplingClient,
            rekindle.ServiceClient,
            rekindle.Future,
            Datasets,
            Rewards,
            Checkpoints,
            Runs,
        )
        for name in dir(owner)
    }
    prose = re.sub(r"```.*?```", "", GUIDE.read_text(), flags=re.DOTALL)
    called = set(re.findall(r"`(?:[a-z]+\.)*([a-z_]+)\([^`]*\)`", prose))
    assert called and called <= known, called - known
