"""A procfs of another PID namespace: readable, but its pids are not ours."""

import subprocess

import pytest

import pagemap_df as pm
from tests import living


@pytest.mark.kernel
def test_processes_of_another_namespace_are_read_but_never_stopped():
    living.need_root()
    inside = "read line < /dev/null; echo ready; sleep 60"
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
    try:
        shell = subprocess.Popen(command, stdout=subprocess.PIPE)
    except FileNotFoundError:
        pytest.skip("no unshare command here")
    with shell:
        try:
            assert shell.stdout is not None
            if shell.stdout.readline() != b"ready\n":
                pytest.skip("PID namespaces cannot be made here")
            children = f"/proc/{shell.pid}/task/{shell.pid}/children"
            with open(children) as file:
                outer = int(file.read().split()[0])
            root = f"/proc/{outer}/root/proc"
            snap = pm.take(root)
            assert snap.processes["pid"].tolist()[0] == 1
            assert snap.pages["pfn"].notna().any()
            with pytest.raises(pm.NotAvailable, match="another PID namespace"):
                pm.take(root, freeze=True)
        finally:
            shell.kill()
