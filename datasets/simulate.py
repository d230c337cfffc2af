"""Make the data sets that come from the simulator: ``python datasets/simulate.py``.

Each is one snap of a script in ``scripts/``, from seed 0. A test makes them again and compares.
"""

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pagemap_df as pm
from pagemap_df import schema, sim, store

MADE = {
    "sim-overcommitted-host": ("overcommitted-host", "woken", "Three services on too little RAM"),
    "sim-ksm-virtual-machines": ("ksm-virtual-machines", "merged", "Equal guests under KSM"),
    "sim-jvm-huge-pages": ("jvm-huge-pages", "helper wrote", "A JVM heap in huge pages, forked"),
    "sim-app-zygote": ("app-zygote", "in use", "Apps forked from one zygote"),
    "sim-preforking-server": ("preforking-server", "after 100 requests", "A server warmed up"),
}
"""Name -> script, snap, title."""


def snapshot(name: str) -> pm.Snapshot:
    """The data set called `name`, made anew."""
    script_name, snap_name, _ = MADE[name]
    script = sim.Script.load(HERE / "scripts" / f"{script_name}.pms")
    snap = sim.Machine(script.memory or "4G", rng=0).run(script)[snap_name]
    facts = {**snap.facts, "taken_at": "2026-01-01T00:00:00+00:00", "seconds": 0.0}
    return pm.Snapshot({table: snap.arrow(table) for table in schema.TABLES}, facts)


def main() -> None:
    """Make all of them."""
    for name, (script, snap_name, title) in MADE.items():
        place = HERE / name
        shutil.rmtree(place, ignore_errors=True)
        made = snapshot(name)
        store.write(made, place)
        about = {
            "title": f"{title} (simulated)",
            "made_by": "python datasets/simulate.py",
            "provenance": f"simulated: scripts/{script}.pms, snap '{snap_name}', seed 0",
            "licence": "BSD-3-Clause",
        }
        (place / "about.json").write_text(json.dumps(about, indent=1) + "\n")
        size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        print(f"{name}: {len(made.arrow('pages')):,} pages, {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
