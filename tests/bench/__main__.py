"""``make bench``: every figure the project claims, as ratios measured side by side."""

import importlib
import sys
from pathlib import Path

from tests.bench.harness import Report


def main() -> int:
    """Run those whose names are given, or all but the long ones; 1 if a mark was missed."""
    stems = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    names = [stem.removeprefix("bench_") for stem in stems]
    wanted = sys.argv[1:] or [name for name in names if not name.startswith("scale_")]
    report = Report()
    for name in wanted:
        print(f"-- {name}")
        importlib.import_module(f"tests.bench.bench_{name}").run(report)
    print(f"\n{len(report.missed)} missed" if report.missed else "\nall marks kept")
    return bool(report.missed)


if __name__ == "__main__":
    sys.exit(main())
