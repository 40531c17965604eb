"""The files in docs/clusters: scripts are run, with stand-ins for the commands of the batch system; YAML is checked."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from evomerge.study import Study
from tests.cluster.clusters import ROOT, cluster, needs_namespaces
from tests.cluster.test_nodes import told, write_search
from tests.waiting import wait_until

SCRIPTS = ROOT / "docs/clusters"


def closed(**properties: Any) -> dict[str, Any]:
    """A mapping with no other keys."""
    return {"type": "object", "properties": properties, "additionalProperties": False}


TEXT, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
AMOUNTS = closed(limits=TEXTS, requests=TEXTS)
MOUNTS = {"type": "array", "items": closed(name=TEXT, mountPath=TEXT, readOnly=FLAG)}
CONTAINER = closed(name=TEXT, image=TEXT, resources=AMOUNTS, volumeMounts=MOUNTS)
VOLUME = closed(name=TEXT, persistentVolumeClaim=closed(claimName=TEXT))
POD = closed(spec=closed(containers={"type": "array", "items": CONTAINER}, volumes={"type": "array", "items": VOLUME}))
#: The fields of KubeRay's RayJob (ray.io/v1) that are used, by their names in its custom resource definition.
RAY_JOB = closed(
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=closed(name=TEXT),
    spec=closed(
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds=COUNT,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        rayClusterSpec=closed(
            rayVersion=TEXT,
            authOptions=closed(mode={"enum": ["token", "disabled"]}),
            enableInTreeAutoscaling=FLAG,
            headGroupSpec=closed(rayStartParams=TEXTS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                    template=POD,
                ),
            },
        ),
    ),
)
#: The fields of SkyPilot's task that are used, as in its reference of the YAML format.
SKY_TASK = closed(
    name=TEXT,
    workdir=TEXT,
    setup=TEXT,
    run=TEXT,
    file_mounts={
        "type": "object",
        "additionalProperties": closed(source=TEXT, mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]}),
    },
    resources=closed(
        accelerators=TEXT,
        use_spot=FLAG,
        disk_size=COUNT,
        job_recovery=closed(
            strategy={"enum": ["FAILOVER", "EAGER_NEXT_REGION"]},
            max_restarts_on_errors=COUNT,
            recover_on_exit_codes={"type": "array", "items": COUNT},
        ),
    ),
)


@pytest.mark.parametrize(("name", "schema"), [("kuberay.yaml", RAY_JOB), ("skypilot.yaml", SKY_TASK)])
def test_fields(name: str, schema: dict[str, Any]) -> None:
    data = yaml.safe_load((SCRIPTS / name).read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(data)
    command = data["run"] if "run" in data else data["spec"]["entrypoint"]
    assert command.split() == ["evomerge", "search", "/shared/search.yaml", "--resume"]


def stand_in(folder: Path, name: str, text: str) -> None:
    """Put an executable in front of PATH."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("codes", "ends", "tries"), [("5 0", 0, 2), ("lost 143 3", 3, 3), ("2", 2, 1), ("5 5 5 5 5 0", 5, 5)]
)
def test_a_ray_job_is_submitted_again_after_what_may_be_cured(
    tmp_path: Path, codes: str, ends: int, tries: int
) -> None:
    (tmp_path / "codes").write_text(codes.replace(" ", "\n") + "\n")
    stand_in(
        tmp_path,
        "ray",
        f"""cd {tmp_path}; echo "$@" >> asked; read -r CODE < codes; sed -i 1d codes
        [ "$CODE" = lost ] || echo '{{"event": "ended", "ending": "paused", "exit_code": '$CODE'}}'
        [ "$CODE" = 0 ]""",
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "WAIT": "0"}
    done = subprocess.run(
        ["bash", SCRIPTS / "ray-job.sh", "/shared/search.yaml"], env=environment, capture_output=True, check=False
    )
    asked = (tmp_path / "asked").read_text().splitlines()
    assert (done.returncode, len(asked)) == (ends, tries)
    assert set(asked) == {"job submit -- evomerge search /shared/search.yaml --resume"}


@pytest.mark.cluster
@needs_namespaces
def test_a_slurm_job_requeues_itself_and_goes_on(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    stand_in(bin_folder, "srun", 'while [[ "$1" == --* ]]; do shift; done; exec "$@"')
    stand_in(
        bin_folder,
        "scontrol",
        f'[ "$1" = show ] && printf "127.0.0.1\\nnode-2\\n" || echo "$@" >> {tmp_path}/requeued',
    )
    stand_in(bin_folder, "evomerge", f'exec {sys.executable} -m evomerge.cli "$@"')
    python = Path(sys.executable).parent
    environment = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    environment["PATH"] = f"{bin_folder}:{python}:{os.environ['PATH']}"
    run = f"import os, sys; os.execvp('bash', ['bash', '{SCRIPTS}/slurm.sh', sys.argv[1]])"
    changes = {"ray_address": None, "ray_insecure": False}
    with cluster(0) as network:  # for its network and folder
        environment["RAY_TMPDIR"] = str(network.folder / "s")
        file = write_search(tmp_path, trials=10**6, **changes)
        job = network.start("-c", run, file, **environment)
        job.wait_until(lambda: told(tmp_path) > 5)
        job.signal_first(signal.SIGTERM)  # with B: only the script gets it
        assert job.wait() == 143, job.words
        assert (tmp_path / "requeued").read_text() == "requeue 77\n"
        before = Study.read(tmp_path / "study")
        assert before.events[-1][0] == "stopped"
        file = write_search(tmp_path, trials=told(tmp_path) + 5, **changes)
        wait_until(lambda: not network.answers(20077))
        job = network.start("-c", run, file, **environment)
        assert job.wait() == 0, job.words
        assert "on 2 nodes of the Ray cluster at 127.0.0.1:20077" in job.out
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"
    assert len(Study.read(tmp_path / "study").told) > len(before.told)
