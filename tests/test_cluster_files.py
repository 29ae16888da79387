"""The files in cluster/ are what Ray's launcher, KubeRay and rrise's own command line take, key by key."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rrise.__main__ import _parser
from rrise.options import read_options
from rrise.targets.settings import ExecutionConfig, SampleConfig

yaml = pytest.importorskip("yaml", reason="needs rrise[cluster]")
ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
TEXTS = {path.name: path.read_text() for path in sorted(CLUSTER.iterdir())}
RAYJOB, LAUNCHER, RUNTIME_ENV = (
    yaml.safe_load(TEXTS[name]) for name in ("rayjob.yaml", "ray-cluster.yaml", "runtime-env.yaml")
)
KUBERAY = json.loads((Path(__file__).parent / "kuberay_rayjob_fields.json").read_text())["objects"]
TYPES = {"string": str, "integer": int, "boolean": bool, "number": (int, float), "integer or string": (int, str)}

PROBE = """
import json, sys
import click
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli

def schema(config):
    validate_config(prepare_config(config))

def command(words):
    name, here, context = "ray", cli, click.Context(cli)
    while isinstance(here, click.Group):
        name, here, words = here.resolve_command(context, words)
    here.make_context(name, list(words), parent=context)

def start(names):
    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    assert known >= {"--" + name for name in names}, names

answers = []
for what, argument in json.load(sys.stdin):
    try:
        globals()[what](argument)
        answers.append("")
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}"[:2000])
print(json.dumps(answers))
"""

LAUNCH = """
import json, os, sys, time
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

time.sleep = lambda seconds: None
os.makedirs(os.path.expanduser("~/.ssh"))
with mock_aws():
    config = AWSNodeProvider.bootstrap_config(prepare_config(json.load(sys.stdin)))
    config = AWSNodeProvider.fillout_available_node_types_resources(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    kinds = config["available_node_types"]
    for kind in kinds:
        provider.create_node(kinds[kind]["node_config"], {"ray-user-node-type": kind}, 1)
    nodes = [provider._get_node(node) for node in provider.non_terminated_nodes({})]
    found = sorted((node.instance_type, node.instance_lifecycle or "") for node in nodes)
    rules = [rule for group in provider.ec2.security_groups.all() if "ray" in group.group_name
             for rule in group.ip_permissions]
print("found", json.dumps([found, {kind: kinds[kind]["resources"] for kind in kinds}, rules]), flush=True)
os._exit(0)
"""


def misspelt(document: dict, *path: str | int) -> dict:
    """Return a copy in which the last key of the path has a letter too many."""
    changed = copy.deepcopy(document)
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[f"{path[-1]}x"] = place.pop(path[-1])
    return changed


def keys(value: object, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Every key of a document, as the path that leads to it."""
    for step, below in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        if isinstance(value, dict):
            yield *path, step
        yield from keys(below, *path, step)


def problems(value: object, kind: str, at: str = "") -> list[str]:
    """What is wrong with a value that KubeRay's definition calls ``kind``."""
    if kind.startswith("list of "):
        found = [] if isinstance(value, list) else [f"{at}: no list"]
        return found or [problem for item in value for problem in problems(item, kind[8:], f"{at}[]")]
    if kind.startswith("map of "):
        return [problem for name, item in value.items() for problem in problems(item, kind[7:], f"{at}.{name}")]
    if kind.startswith("one of "):
        return [] if value in kind[7:].split() else [f"{at}: {value!r} is not {kind}"]
    if kind in TYPES:
        right = isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))
        return [] if right else [f"{at}: {value!r} is no {kind}"]
    fields = KUBERAY.get(kind, {})
    found = [f"{at}.{name}: unknown in {kind}" for name in value if name not in fields]
    return found + [
        problem for name in value if name in fields for problem in problems(value[name], fields[name], f"{at}.{name}")
    ]


def commands(text: str) -> list[list[str]]:
    """The commands of a README's shell blocks, in words."""
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    return [words for line in lines.splitlines() if (words := shlex.split(line, comments=True))]


README = commands(TEXTS["README.md"])
JOB = shlex.split(RAYJOB["spec"]["entrypoint"])
SUBMITTED = [words[words.index("--") + 1 :] for words in README if words[:3] == ["ray", "job", "submit"]]
POD = RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
GPU = RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize("words", [JOB, *SUBMITTED, *(words for words in README if words[0] == "rrise")])
def test_every_command_is_one_that_rrise_takes(words: list[str]) -> None:
    arguments = _parser().parse_args(words[1:])
    assert arguments.verb == "sample"
    assert read_options(arguments, SampleConfig).n >= 1000
    execution = read_options(arguments, ExecutionConfig)
    if words is JOB or words in SUBMITTED:
        assert (execution.executor, execution.address) == ("ray", "auto")
        assert execution.workers == LAUNCHER["max_workers"] == GPU["maxReplicas"]  # the demand, and room for it
        assert arguments.out.startswith("s3://")


def test_a_command_that_rrise_does_not_take_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args([*JOB[1:], "--worker-count", "8"])
    assert "unrecognized arguments: --worker-count" in capsys.readouterr().err


@pytest.fixture(scope="module")
def ray_says():
    """What Ray answers to (check, argument) pairs, none if it takes them; in a process of its own."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("jsonschema") is None:
        pytest.skip("needs ray[default]")

    def ask(*questions: tuple[str, object]) -> list[str]:
        environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(
            [sys.executable, "-c", PROBE], input=json.dumps(questions), env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return ask


@pytest.mark.slow
def test_the_launcher_takes_its_file_and_no_misspelt_key(ray_says) -> None:
    paths = [path for path in keys(LAUNCHER) if path[0] not in ("provider", "file_mounts")]
    free = {("available_node_types", kind, field) for kind in ("head", "gpu") for field in ("node_config", "resources")}
    checked = [path for path in paths if path[:3] not in free or len(path) == 3]
    assert len(checked) > 20
    good, *bad = ray_says(("schema", LAUNCHER), *(("schema", misspelt(LAUNCHER, *path)) for path in checked))
    assert good == ""
    optional_name = ("available_node_types", "gpu")  # a node type may have any name
    assert [path for path, answer in zip(checked, bad, strict=True) if not answer] == [optional_name]
    assert set(LAUNCHER["provider"]) == {"type", "region", "availability_zone", "cache_stopped_nodes"}


@pytest.mark.slow
def test_ray_takes_the_commands_and_start_parameters(ray_says) -> None:
    ours = [words[1:] for words in README if words[0] == "ray"]
    assert {words[0] for words in ours} == {"get-auth-token", "up", "dashboard", "job", "down"}
    parameters = [*RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"], *GPU["rayStartParams"]]
    started = [
        shlex.split(line.split("; ")[-1])[1:]
        for when in ("head", "worker")
        for line in LAUNCHER[f"{when}_start_ray_commands"]
    ]
    questions = [("command", words) for words in ours + started] + [("start", parameters)]
    wrong = [("command", ["job", "submit", "--working-directory", "job", "--", "true"]), ("start", ["num-cpu"])]
    answers = ray_says(*questions, *wrong)
    assert answers[:-2] == [""] * len(questions)
    assert all(answers[-2:])


def test_ec2_knows_what_is_asked_of_it() -> None:
    botocore = pytest.importorskip("botocore.session", reason="needs boto3")
    from botocore.validate import ParamValidator

    shape = botocore.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for kind in LAUNCHER["available_node_types"].values():
        asked = kind["node_config"] | {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(asked, shape).has_errors()
        for path in keys(kind["node_config"]):
            assert ParamValidator().validate(misspelt(asked, *path), shape).has_errors(), path


@pytest.mark.slow
def test_rays_launcher_starts_the_machines_in_a_simulated_ec2(tmp_path: Path) -> None:
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs moto[server]")
    environment = os.environ | {
        "HOME": str(tmp_path),  # the launcher writes a key pair there
        "RAY_USAGE_STATS_ENABLED": "0",
        "MOTO_IAM_LOAD_MANAGED_POLICIES": "true",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH], input=json.dumps(LAUNCHER), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    machines, resources, rules = json.loads(said.removeprefix("found "))
    assert machines == [["g6.xlarge", "spot"], ["m6i.xlarge", ""]]
    assert resources["head"] == {"CPU": 0, "GPU": 0}
    assert (resources["gpu"]["CPU"], resources["gpu"]["GPU"]) == (4, 1)
    open_to_all = [rule for rule in rules if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in open_to_all] == [(22, 22)]  # Ray's ports are not


def test_kuberay_knows_every_key() -> None:
    assert problems(RAYJOB, "RayJob") == []
    assert RAYJOB["spec"]["submissionMode"] in ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")


def test_a_misspelt_key_a_wrong_type_and_an_unknown_value_are_found() -> None:
    maps = ("rayStartParams", "requests", "limits")  # whose names are free for KubeRay; held below
    paths = [path for path in keys(RAYJOB) if not set(maps) & set(path[:-1])]
    assert len(paths) > 60
    assert [path for path in paths if not problems(misspelt(RAYJOB, *path), "RayJob")] == []
    for field, value in (("backoffLimit", "3"), ("shutdownAfterJobFinishes", 1), ("ttlSecondsAfterFinished", True)):
        assert len(problems({"spec": RAYJOB["spec"] | {field: value}}, "RayJob")) == 1
    assert len(problems({"mode": "password"}, "AuthOptions")) == 1


def test_no_worker_is_placed_on_the_head_and_each_has_a_gpu() -> None:
    assert RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (head,), (worker,) = POD["containers"], GPU["template"]["spec"]["containers"]
    assert set(head["resources"]["limits"]) == set(head["resources"]["requests"]) == {"cpu", "memory"}
    assert worker["resources"]["limits"] == worker["resources"]["requests"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert head["image"] == worker["image"]
    for pod in (POD, GPU["template"]["spec"]):  # images are found under the same path on every node
        mount = {volume["name"]: volume for volume in pod["containers"][0]["volumeMounts"]}["images"]["mountPath"]
        assert JOB[JOB.index("--data.source") + 1].startswith(f"{mount}/")


def test_one_version_of_ray() -> None:
    images = re.findall(r"rayproject/ray:([\d.]+)-py311-gpu", "".join(TEXTS.values()))
    pins = re.findall(r"ray\[default\]==([\d.]+)", TEXTS["README.md"])
    pins += re.findall(r"^ray==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(images) == 2
    assert {*images, *pins} == {RAYJOB["spec"]["rayClusterSpec"]["rayVersion"]}


SECRET = re.compile(r"\b[0-9a-f]{32,}\b|AKIA[0-9A-Z]{12,}|RAY_AUTH_TOKEN\s*[=:]\s*\S|SECRET_ACCESS_KEY\s*[=:]\s*\S")


def test_no_token_is_in_the_files_and_every_way_asks_for_one() -> None:
    assert [name for name, text in TEXTS.items() if SECRET.search(text)] == []
    for leak in ("RAY_AUTH_TOKEN=letmein", "AKIAIOSFODNN7EXAMPLE", "token: " + "0a" * 32):
        assert SECRET.search(leak)
    assert RAYJOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for when in ("head", "worker"):
        assert "RAY_AUTH_MODE=token" in LAUNCHER[f"{when}_start_ray_commands"][-1]
    assert "/home/ray/.ray" in LAUNCHER["file_mounts"]


def test_the_environment_of_a_job() -> None:
    assert set(RUNTIME_ENV) == {"env_vars", "excludes"}  # Ray itself says nothing about a misspelt one
    assert all(isinstance(value, str) for value in RUNTIME_ENV["env_vars"].values())


def test_what_the_readme_names_is_there() -> None:
    named = set(re.findall(r"`((?:cluster|tests)/[\w./-]+|[\w-]+\.yaml|Dockerfile)`", TEXTS["README.md"]))
    assert len(named) >= 5
    for name in named:
        assert (ROOT / name).exists() or (CLUSTER / name).exists(), name
