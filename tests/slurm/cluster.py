"""A SLURM of this machine alone, for tests: munged, slurmctld and one slurmd.

It needs root and Debian's packages of PACKAGES. All its files are in one folder, and
its programs are children of this process.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import runs

PACKAGES = "slurmctld slurmd slurm-client munge"

# A job that was queued again starts when its credential has expired: after 120 s by
# default, after 5 s here.
CONFIG = """\
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Says what this machine lacks for a SLURM; None if it has all."""
    if os.geteuid() != 0:
        return "munged and slurmd are started as root"
    for name in ("munged", "slurmctld", "slurmd", "srun", "sbatch"):
        if shutil.which(name) is None:
            return f"{name} is missing: apt-get install {PACKAGES}"
    return None


@contextlib.contextmanager
def started(folder, cores=2):
    """Starts a SLURM of one node; yields the path of its slurm.conf, for SLURM_CONF."""
    folder = pathlib.Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    ports = runs.free_ports(2)
    config.write_text(CONFIG.format(folder=folder, ports=ports, cores=cores))
    files = {"key-file": key}
    for name in ("socket", "pid-file", "log-file", "seed-file"):
        files[name] = folder / f"munge.{name.removesuffix('-file')}"
    munged = ["munged", "--force", "--foreground"]
    commands = (
        [*munged, *(f"--{name}={path}" for name, path in files.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    )
    environment = os.environ | {"SLURM_CONF": str(config)}
    with contextlib.ExitStack() as stack:
        for command in commands:
            output = stack.enter_context(open(folder / f"{command[0]}.out", "w"))
            daemon = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output
            )
            stack.callback(_end, daemon)
            if command is commands[0]:
                _wait(files["socket"].exists, folder)
        _wait(lambda: _is_idle(environment), folder)
        yield config


def _is_idle(environment):
    command = ["sinfo", "--noheader", "--format=%t"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    return found.stdout.strip() == "idle"


def _wait(condition, folder):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"SLURM does not start; see {folder}"
        time.sleep(0.2)


def _end(daemon):
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
