"""`task bench`: run the benchmarks that are named, or all; each prints its table and records it."""

import argparse

from benchmarks import roundtrip, sampling, training

ALL = {"roundtrip": roundtrip.main, "training": training.main, "sampling": sampling.main}


def main() -> None:
    parser = argparse.ArgumentParser(prog="task bench --", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*ALL, []], metavar=f"{{{','.join(ALL)}}}")
    for name in parser.parse_args().names or ALL:
        print(f"\n{name}\n{'-' * len(name)}")
        ALL[name]()


if __name__ == "__main__":
    main()
