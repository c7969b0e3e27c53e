"""`task bench`: run the benchmarks that are named, or the quick ones; each prints its table and records it."""

import argparse

from benchmarks import (
    data,
    demo,
    engines,
    figures,
    gpu,
    pipeline,
    rewards,
    roundtrip,
    sampling,
    sandbox,
    serverless,
    services,
    training,
    trials,
    wake,
)
from benchmarks.record import RESULTS

DEFAULT = {
    "roundtrip": roundtrip.main,
    "training": training.main,
    "sampling": sampling.main,
    "engines": engines.main,
    "rewards": rewards.main,
    "sandbox": sandbox.main,
    "wake": wake.main,
    "data": data.main,
    "gpu": gpu.main,
}
LONG = {
    "trials": trials.main,
    "services": services.main,
    "pipeline": pipeline.main,
    "demo": demo.main,
    "serverless": serverless.main,
}
"""Those with the demo take a quarter of an hour each; they are measured only when they are named."""
ALL = {**DEFAULT, **LONG}


def main() -> None:
    parser = argparse.ArgumentParser(prog="task bench --", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar=f"{{{','.join(ALL)}}}")
    for name in parser.parse_args().names or DEFAULT:
        print(f"\n{name}\n{'-' * len(name)}")
        ALL[name]()
        if (RESULTS / f"{name}.json").exists():
            print(f"\n{figures.render(name, figures.load(name))}")


if __name__ == "__main__":
    main()
