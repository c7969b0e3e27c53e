"""docs/metrics.md lists what is counted, all of it and nothing else."""

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from events import metrics
from services.reward.code import place

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "metrics.md").read_text()
ALL = [one for one in (*vars(metrics).values(), place.LAYER) if isinstance(one, MetricWrapperBase)]
BOUNDED = {"type", "outcome", "status", "service", "base_model", "grader", "layer"}


def labels(one: MetricWrapperBase) -> tuple[str, ...]:
    found: tuple[str, ...] = one._labelnames
    return found


def row(one: MetricWrapperBase) -> str:
    (family,) = one.describe()
    name = f"{family.name}_total" if family.type == "counter" else family.name
    named = ", ".join(f"`{label}`" for label in labels(one))
    return f"| `{name}` | {family.type} | {named} | {family.documentation} |"


def test_the_table_lists_all_metrics_in_their_order() -> None:
    table = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    assert table == [row(one) for one in ALL]


def test_every_metric_of_the_code_is_in_one_of_these_modules() -> None:
    made = re.compile(r'(?:Counter|Gauge|Histogram|Summary)\(\s*"rekindle_')
    files = [path for part in ("events", "services") for path in (ROOT / part).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if made.search(path.read_text())}
    assert found == {"events/metrics.py", "services/reward/code/place.py"}


def test_no_label_takes_any_number_of_values() -> None:
    assert set().union(*map(labels, ALL)) == BOUNDED


def test_the_example_of_prometheus_scrapes_pods_at_the_port_of_the_manifests() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (job,) = yaml.safe_load(example)["scrape_configs"]
    rules: list[dict[str, Any]] = job["relabel_configs"]
    settings = yaml.safe_load((ROOT / "knative" / "base" / "settings.yaml").read_text())["data"]
    policy = yaml.safe_load((ROOT / "knative" / "base" / "network" / "metrics.yaml").read_text())["spec"]
    (kinds,) = (each["values"] for each in policy["podSelector"]["matchExpressions"])
    assert rules[0]["regex"].split("|") == kinds
    assert rules[1]["replacement"] == f"$1:{settings['REKINDLE_METRICS_PORT']}"
