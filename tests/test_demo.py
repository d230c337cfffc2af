"""The demo does the main job, live where it can and on a recording where it cannot."""

import pytest
from click.testing import CliRunner

import pagemap_df as pm
from pagemap_df import demo, sharing
from pagemap_df.errors import NotPermitted
from tests import living


def test_the_live_demo_counts_a_family_as_the_kernel_does(tmp_path):
    living.need_root()
    mib = 8
    done = CliRunner().invoke(demo.main, ["-o", str(tmp_path / "out"), "--mib", str(mib)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Live: four processes on this kernel")
    snap = pm.read_snapshot(tmp_path / "out")
    uss = sharing.processes(snap).set_index("ppid")["uss"]
    parent = snap.processes["pid"].min()
    for found, share in zip(uss.loc[parent], demo.SHARES, strict=True):
        # The largest writer shares what only it rewrote with nobody; the interpreter's own
        # private pages come on top.
        alone = share - max([s for s in demo.SHARES if s < share], default=0)
        assert found >= alone * mib * (1 << 20)


def test_without_the_right_to_see_frames_it_says_so_and_uses_the_recording(tmp_path, monkeypatch):
    def refuse():
        raise NotPermitted("no right")

    monkeypatch.setattr(demo, "kernel_facts", refuse)
    done = CliRunner().invoke(demo.main, ["-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Recorded, not live")
    assert "no right" in done.output


def test_the_family_is_gone_afterwards():
    with demo.family(1) as pids:
        assert len(pm.take(pids=pids).processes) == 4
    with pytest.raises(pm.ProcessGone):
        pm.take(pids=pids)
