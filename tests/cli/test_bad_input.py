"""Bad input: exit code 2, one line for each problem, all of them at once, before anything runs; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from distsim.cli import main
from distsim.registry import BUILT_IN

STRATEGIES = "one of " + ", ".join(BUILT_IN["strategy"])
BANDWIDTH = "a bandwidth greater than 0 with its unit, like 10Gbit/s or 25GB/s"
NAME = "letters, digits, spaces and . _ - (no ..), at most 100 of them"
FACTOR = "a number greater than 0 and at most 1000000"
STRAGGLERS = (
    "bernoulli, episodes_512_gpus, episodes_four_nodes, episodes_one_node, exponential, hot_expert, lognormal, none, "
    "one_slow, pareto, persistent, rare_long_steps, sequence_lengths, shifted_exponential"
)
TWICE = "every value once: the same run would be done twice"
HYDRA = "of Hydra only hydra/launcher and hydra.launcher.* can be set"
PLAIN = "settings are plain key=value"

SINGLE = {
    "cluster=switch cluster.bandwidth=-5": f"cluster.bandwidth=-5: {BANDWIDTH}",
    "cluster=switch cluster.bandwidth=0": f"cluster.bandwidth=0: {BANDWIDTH}",
    "cluster=switch cluster.bandwidth=nan": f"cluster.bandwidth=nan: {BANDWIDTH}",
    "cluster=switch cluster.bandwidth=inf": f"cluster.bandwidth=inf: {BANDWIDTH}",
    "cluster=switch cluster.bandwidth=10Gb": f"cluster.bandwidth='10Gb': {BANDWIDTH}; did you mean 10Gbit/s or 10GB/s?",
    "cluster.bandwidth=10Gbit/s": "cluster.bandwidth='10Gbit/s': only for cluster.network=switch, fully_connected, ring, "
    "two_level, fat_tree or torus; add cluster.network=switch or take cluster=switch",
    "cluster=switch cluster.bandwidth=null": "cluster.bandwidth=None: must be given with cluster.network=switch",
    "cluster=switch cluster.latency=5": "cluster.latency=5: a bare number counts seconds, at most 1; write the unit; "
    "did you mean 5us or 5ms?",
    f"seed=-{'9' * 5000}": f"seed='-{'9' * 55}...: a value that Hydra's override grammar reads; quote it: 'seed=\"...\"'",
    "cluster.workers=0": "cluster.workers=0: a whole number 1 or more",
    "cluster.workers=-1": "cluster.workers=-1: a whole number 1 or more",
    "cluster.workers=1.5": "cluster.workers=1.5: a whole number 1 or more",
    "cluster.workers=four": "cluster.workers='four': a whole number 1 or more; did you mean 4?",
    "strategy=asynch_ps": f"strategy='asynch_ps': {STRATEGIES}; did you mean async_ps?",
    "straggler=lognormol": f"straggler='lognormol': one of {STRAGGLERS}; did you mean lognormal?",
    "straggler=one_slow+lognormol": f"straggler='one_slow+lognormol': joined by +, each one of {STRAGGLERS}; "
    "did you mean lognormal?",
    "straggler=lognormal+": f"straggler='lognormal+': joined by +, each one of {STRAGGLERS}",
    "straggler=one_slow+one_slow": "straggler='one_slow+one_slow': every choice once; remove one one_slow",
    "straggler=lognormal+pareto": "straggler='lognormal+pareto': two of them set straggler.jitter: a straggler has one; "
    "leave one out",
    "straggler=one_slow+persistent": "straggler='one_slow+persistent': two of them set straggler.slow.0: a straggler has "
    "one; leave one out",
    "straggler=[lognormal,one_slow]": "straggler=['lognormal', 'one_slow']: choices joined by +; "
    "write straggler=lognormal+one_slow",
    "straggler.jitter=exponentiol": "straggler.jitter='exponentiol': one of none, exponential, shifted_exponential, "
    "lognormal, pareto, bernoulli, histogram; did you mean exponential?",
    "workload=digit_mlp": "workload='digit_mlp': one of char_gpt, digits_cnn, digits_mlp, module; did you mean digits_mlp?",
    "cluster=local": "cluster='local': one of dgx_a100, dgx_h100, dumbbell, ethernet_10, ethernet_100, "
    "ethernet_25, fat_tree, infiniband_hdr, infiniband_ndr, local4, node8, switch, torus; did you mean local4?",
    "optimizer.learning_rat=1": "optimizer.learning_rat=1: no such key; did you mean optimizer.learning_rate?",
    "strategy.learning_rate=1": "strategy.learning_rate=1: no such key; did you mean optimizer.learning_rate?",
    "strategy.weight=inverse": "strategy.weight='inverse': no such key; a key of strategy=async_ps",
    "bugdet.updates=3": "bugdet={'updates': 3}: no such key; did you mean budget?",
    "worker=3": "worker=3: no such key; did you mean cluster.workers?",
    "budget.loss=2.0": "budget.loss=2.0: no such key; keys here: updates, samples, seconds",
    "cluster.batch=3": "cluster.batch=3: no such key; did you mean workload.batch?",
    "strategy=model_parallel cluster.workers=9": "cluster.workers=9: a pipeline needs a block a stage, "
    "and this model has 8; take at most 8 workers or a deeper model",
    "strategy=one_f_one_b strategy.microbatches=7": "strategy.microbatches=7: must divide the 64 samples of a step; "
    "nearest: 4 or 8",
    "straggler=lognormal straggler.sigma=nan": "straggler.sigma=nan: a number from 0 to 10",
    "straggler=lognormal straggler.sigma=-1": "straggler.sigma=-1: a number from 0 to 10",
    "straggler=shifted_exponential straggler.scale=1e308": "straggler.scale=1e+308: a number from 0 to 1000000",
    "straggler.slow={0:1e308}": "straggler.slow.0=1e+308: a number greater than 0 and at most 1000000",
    "straggler.slow={9:2}": "straggler.slow.9=2: there are workers 0 to 3",
    "straggler.slow.1=0": "straggler.slow.1=0: a number greater than 0 and at most 1000000",
    "straggler.jitter=histogram": "straggler.histogram={}: must be given with straggler.jitter=histogram",
    "straggler.histogram={1:1}": "straggler.histogram={1.0: 1.0}: only with straggler.jitter=histogram; "
    "add straggler.jitter=histogram or leave it out",
    "straggler.jitter=histogram straggler.histogram={1:0}": "straggler.histogram={1: 0}: "
    "at least one weight greater than 0",
    "straggler.jitter=histogram straggler.histogram={1:1,0:1}": f"straggler.histogram=0: {FACTOR}",
    "straggler.jitter=histogram straggler.histogram={1:1,2:-1}": "straggler.histogram.2=-1: "
    "a number from 0 to 1000000000000",
    "straggler.jitter=histogram straggler.histogram=[1,2]": "straggler.histogram=[1, 2]: a map from factors to weights, or "
    "the path of a file with one; for example straggler.histogram={1.0: 95, 3.0: 5}",
    "straggler.jitter=histogram straggler.histogram=nowhere.yaml": "straggler.histogram='nowhere.yaml': "
    "a YAML file that can be read (No such file or directory)",
    "straggler.jitter=histogram straggler.histogram=nowhere.csv": "straggler.histogram='nowhere.csv': a CSV file that can "
    "be read (No such file or directory)",
    "straggler=exponential straggler.scales_with_work=false": "straggler.work_seconds=0.0: must be given with "
    "straggler.scales_with_work=false",
    "straggler=exponential straggler.work_seconds=1s": "straggler.work_seconds=1.0: only with "
    "straggler.scales_with_work=false; add straggler.scales_with_work=false or leave it out",
    "straggler.scales_with_work=no": "straggler.scales_with_work='no': true or false",
    "straggler.work_seconds=-1s": "straggler.work_seconds='-1s': a time 0 or more with its unit, like 5us or 1.5s",
    "straggler.stages=[1,1,1.2]": "straggler.stages=[1.0, 1.0, 1.2]: must divide the 4 workers (3 stages of 1)",
    "straggler.stages=[1,2] straggler.stage_width=3": "straggler.stage_width=3: must divide the 4 workers (2 stages of 3)",
    "straggler.stages=[1,0,1,1]": f"straggler.stages=[1, 0, 1, 1]: {FACTOR}",
    "straggler.stages=2": "straggler.stages=2: a list of factors, one a stage, like [1,1,1,1.2]",
    "straggler.stage_width=0": "straggler.stage_width=0: a whole number 1 or more",
    "straggler.spread=3": "straggler.spread=3: a group of keys; its keys are straggler.spread.kind, "
    "straggler.spread.sigma, straggler.spread.share, straggler.spread.factor",
    "straggler.spread.kind=lognormol": "straggler.spread.kind='lognormol': one of none, lognormal, share; "
    "did you mean lognormal?",
    "straggler.spread.sigm=3": "straggler.spread.sigm=3: no such key; did you mean straggler.spread.sigma?",
    "straggler.spread.sigma=11": "straggler.spread.sigma=11: a number from 0 to 10",
    "straggler.spread.share=1.5": "straggler.spread.share=1.5: a number from 0 to 1",
    "straggler.spread.factor=0": f"straggler.spread.factor=0: {FACTOR}",
    "straggler.episode.share=1": "straggler.episode={'share': 1}: no such key; did you mean straggler.episodes?",
    "straggler.episodes.share=2": "straggler.episodes.share=2: a number from 0 to 1",
    "straggler.episodes.factor=0.5": "straggler.episodes.factor=0.5: a number from 1 to 1000000",
    "straggler.episodes.mean_seconds=1us": "straggler.episodes.mean_seconds='1us': a time 0.0001 or more with its unit, "
    "like 5us or 1.5s",
    "straggler.episodes.who=[4]": "straggler.episodes.who=4: there are workers 0 to 3",
    "straggler.episodes.who=[-1]": "straggler.episodes.who=[-1]: a whole number 0 or more",
    "straggler.episodes.mean=3": "straggler.episodes.mean=3: no such key; keys here: share, mean_seconds, factor, who",
    "straggler.lengths.sigma=4": "straggler.lengths.sigma=4: a number from 0 to 3",
    "straggler.lengths.attention=-1": "straggler.lengths.attention=-1: a number from 0 to 1",
    "straggler.experts.hottest=5": "straggler.experts.hottest=5.0: at most 4: then all tokens of straggler.experts.group "
    "go to one worker",
    "straggler.experts.hottest=0.5": "straggler.experts.hottest=0.5: a number 1 or more",
    "straggler=hot_expert cluster.workers=6": "straggler.experts.group=4: must divide the 6 workers",
    "straggler.experts.group=1": "straggler.experts.group=1: a whole number 2 or more",
    "straggler.experts.share=nan": "straggler.experts.share=nan: a number from 0 to 1",
    "straggler.hottest=2": "straggler.hottest=2: no such key; did you mean straggler.experts.hottest?",
    "straggler.slow=3": "straggler.slow=3: a map from workers to factors; for example straggler.slow={0: 3.0}",
    "budget.samples=null": "budget.samples=None: a run needs a limit: budget.updates, budget.samples or budget.seconds; "
    "for example budget.updates=200",
    "budget.samples=10": "budget.samples=10: one update takes 64 samples; at least budget.samples=64",
    "budget.seconds=0": "budget.seconds=0: a time greater than 0 with its unit, like 5us or 1.5s",
    "optimizer.learning_rate=0": "optimizer.learning_rate=0: a number greater than 0",
    "optimizer.learning_rate=-1": "optimizer.learning_rate=-1: a number greater than 0",
    "optimizer.momentum=1": "optimizer.momentum=1: a number 0 or more and less than 1",
    "optimizer.momentum=-0.1": "optimizer.momentum=-0.1: a number 0 or more and less than 1",
    "optimizer=adam": "optimizer='adam': one of adamw, sgd; did you mean adamw?",
    "optimizer={learning_rate:1}": "optimizer={'learning_rate': 1}: one of adamw, sgd; "
    "set its keys one by one: optimizer.learning_rate=...",
    "optimizer.nesterov=true": "optimizer.nesterov=True: needs momentum; for example optimizer.momentum=0.9",
    "optimizer.nesterov=1": "optimizer.nesterov=1: true or false",
    "optimizer.weight_decay=-1": "optimizer.weight_decay=-1: a number 0 or more",
    "optimizer.beta1=0.8": "optimizer.beta1=0.8: no such key; a key of optimizer=adamw",
    "optimizer=adamw optimizer.momentum=0.9": "optimizer.momentum=0.9: no such key; a key of optimizer=sgd",
    "optimizer=adamw optimizer.beta1=1": "optimizer.beta1=1: a number 0 or more and less than 1",
    "optimizer=adamw optimizer.beta2=-0.1": "optimizer.beta2=-0.1: a number 0 or more and less than 1",
    "optimizer=adamw optimizer.epsilon=0": "optimizer.epsilon=0: a number greater than 0",
    "optimizer=adamw optimizer.learning_rate=nan": "optimizer.learning_rate=nan: a number greater than 0",
    "optimizer.scaling=sqrt": "optimizer.scaling='sqrt': one of none, linear, square_root",
    "optimizer.schedule.decay=cosin": "optimizer.schedule.decay='cosin': one of constant, linear, cosine; "
    "did you mean cosine?",
    "optimizer.decay=cosine": "optimizer.decay='cosine': no such key; did you mean optimizer.schedule.decay?",
    "optimizer.schedule.warmup=-1": "optimizer.schedule.warmup=-1: a whole number 0 or more",
    "optimizer.schedule.warmup=0.5": "optimizer.schedule.warmup=0.5: a whole number 0 or more",
    "optimizer.schedule.final=1.5": "optimizer.schedule.final=1.5: a number from 0 to 1",
    "optimizer.schedule=cosine": "optimizer.schedule='cosine': a group of keys; its keys are optimizer.schedule.warmup, "
    "optimizer.schedule.decay, optimizer.schedule.final",
    "optimizer.schedule.decay=linear budget.seconds=1": "optimizer.schedule.decay='linear': a decay ends with the last "
    "update, so it needs a budget that counts updates or samples; for example budget.updates=200",
    "cluster.memory=0GB": "cluster.memory='0GB': a size greater than 0 with its unit, like 80GB",
    "cluster.memory=-1GB": "cluster.memory='-1GB': a size greater than 0 with its unit, like 80GB",
    "cluster.memory=80": "cluster.memory=80: a size greater than 0 with its unit, like 80GB; did you mean 80GB?",
    "cluster.memory=80Gb": "cluster.memory='80Gb': a size greater than 0 with its unit, like 80GB; "
    "did you mean 80GB (bytes) or 10GB (the same number of bits)?",
    "backend=real cluster=switch": "cluster.network='switch': backend=real runs on this machine: loopback, or one node "
    "of two_level; take cluster=local4 cluster.workers=4, or backend=modeled",
    "label=../x": f"label='../x': {NAME}",
    'label="<script>"': f"label='<script>': {NAME}",
    'label="=cmd()"': f"label='=cmd()': {NAME}",
    "label=<script>": "label='<script>': a value that Hydra's override grammar reads; quote it: 'label=\"...\"'",
    "seed=1,2": "seed='1,2': one value here; add -m to sweep over several",
    "seed=-1": "seed=-1: a whole number 0 or more",
    "seed=${oc.env:HOME}": "seed='${oc.env:HOME}': a whole number 0 or more",
    "foo": "foo='': settings are written key=value",
    "+x=3": f"+x='3': {PLAIN}; write x=",
    "strategy@x=all_reduce": f"strategy@x='all_reduce': {PLAIN}; write strategy=",
    "hydra.sweep.dir=../../x": f"hydra.sweep.dir='../../x': {HYDRA}",
    "budget=7": "budget=7: a group of keys; its keys are budget.updates, budget.samples, budget.seconds",
    "evaluation=3": "evaluation=3: a group of keys; its keys are evaluation.samples",
    "repeat=1 repeat=2": "repeat='2': every key once; repeat=1 is there, too: remove one",
    "strategy=sync_ps strategy=sync_ps": "strategy='sync_ps': every key once; strategy=sync_ps is there, too: remove one",
    "budget={updates:1,samples:6400} budget.updates=2": "budget.updates=2: every key once; "
    "budget={'updates': 1, 'samples': 6400} sets budget.updates, too: remove one",
    "budget.updates=2 budget={updates:1}": "budget={'updates': 1}: every key once; "
    "budget.updates=2 sets budget.updates, too: remove one",
    "straggler.episodes={factor:2} straggler.episodes.factor=3": "straggler.episodes.factor=3: every key once; "
    "straggler.episodes={'factor': 2} sets straggler.episodes.factor, too: remove one",
    "workload.depth=20000000": "workload.depth=20000000: must be from 2 to 10000",
    "workload.width=1e9": "workload.width=1000000000: must be from 1 to 100000",
    "workload.batch=100000000": "workload.batch=100000000: must be from 1 to 1000000",
    "strategy=one_f_one_b workload.batch=1000000 budget.updates=1 strategy.microbatches=3": "strategy.microbatches=3: "
    "must divide the 4000000 samples of a step; nearest: 2 or 4",
    "workload=module": "workload.module='': must be package.file:function; for instance my_package.my_file:build",
    "workload.module=os:system": "workload.module='os:system': no such key; a key of workload=module",
}
SWEEP = {
    "repeat=0,1 seed=1 repeat=2,3": "repeat='2,3': every key once; repeat=0,1 is there, too: remove one",
    "budget={updates:1},{updates:2} budget.updates=3": "budget.updates=3: every key once; "
    "budget={'updates': 1} sets budget.updates, too: remove one\nbudget.updates=3: every key once; "
    "budget={'updates': 2} sets budget.updates, too: remove one",
    "repeat=0,0": f"repeat='0,0': {TWICE}; remove one 0",
    "seed=1,1.0": "-m='seed=1.0': every run once: this one is in the sweep twice; remove one of the equal values",
    "repeat=range(0,0)": "repeat='range(0,0)': an empty sweep: no value to run",
    "seed=range(0,1000000)": "-m=1000000: more than 1,000 runs want --yes; "
    "1,000,000 runs: about 83.3 hours if each takes 0.3 s",
    "seed=interval(0,1)": "seed='interval(0,1)': a list of values, like 1,2,3 or range(0,5)",
    "strategy=glob(*_ps) cluster.workers=0": "cluster.workers=0: a whole number 1 or more",
    "strategy=all_reduce,sync_p cluster.workers=4,0": "cluster.workers=0: a whole number 1 or more\n"
    f"strategy='sync_p': {STRATEGIES}; did you mean sync_ps?",
    "--jobs=0 repeat=0,1": "--jobs='0': a whole number 1 or more",
    "--jobs=two repeat=0,1": "--jobs='two': a whole number 1 or more; did you mean 2?",
    "hydra/launcher=nowhere": "hydra/launcher='nowhere': one of basic; install hydra-nowhere-launcher",
}


def refused(words: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What is said, after checking that nothing else happened."""
    assert main(["run", *words]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert list(folder.iterdir()) == []
    return output.err.removesuffix("\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", SINGLE)
def test_refuses(words: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert refused(words.split(), capsys, here) == SINGLE[words]


@pytest.mark.parametrize("words", SWEEP)
def test_refuses_a_sweep(words: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    said = refused(["-m", *words.split()], capsys, here)
    if "nowhere" in words:  # which launchers are installed is not ours to know
        said = said.replace(said[said.index("one of") : said.index(";")], "one of basic")
    assert said == SWEEP[words]


def test_all_problems_at_once(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    words = ["strategy=asynch_ps", "cluster.workers=four", "optimizer.learning_rate=-1", "label=<", "budget.samples=null"]
    assert refused(words, capsys, here).splitlines() == [
        "label='<': a value that Hydra's override grammar reads; quote it: 'label=\"...\"'",
        f"strategy='asynch_ps': {STRATEGIES}; did you mean async_ps?",
        "cluster.workers='four': a whole number 1 or more; did you mean 4?",
        "optimizer.learning_rate=-1: a number greater than 0",
        "budget.samples=None: a run needs a limit: budget.updates, budget.samples or budget.seconds; "
        "for example budget.updates=200",
    ]


def test_all_options_of_real_runs_at_once(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    words = ["backend=real", "backend.threads=0", "backend.hang_seconds=-1", "backend.start_seconds=0"]
    assert refused(words, capsys, here).splitlines() == [
        "backend.hang_seconds=-1: a time greater than 0 with its unit, like 5us or 1.5s",
        "backend.start_seconds=0: a time greater than 0 with its unit, like 5us or 1.5s",
        "backend.threads=0: a whole number from 1 to 4096",
    ]


def test_more_workers_than_memory(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    said = refused(["cluster.workers=1e9"], capsys, here)
    assert said.startswith("cluster.workers=1000000000: would take about 90,000 GB of memory, and this machine has ")


def test_cuda_without_a_gpu(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    said = refused(["backend=real", "backend.device=cuda"], capsys, here)
    assert said.startswith("backend.device='cuda': this machine has no GPU; take backend.device=auto or cpu")


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ("/etc/hostname", "runs='/etc/hostname': must be a folder, but is a file; choose another, for example runs=runs"),
        ("/etc/hostname/x", "runs='/etc/hostname/x': must be a folder, but /etc/hostname is a file; "
         "choose another, for example runs=runs"),
        ("/proc/x", "runs='/proc/x': /proc cannot be written (No such file or directory); "
         "choose another, for example runs=/tmp/runs"),
        ("x" * 300, "cannot be a folder (File name too long)"),
    ],
)  # fmt: skip
def test_a_folder_that_takes_no_runs(runs: str, said: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert refused([f"runs={runs}"], capsys, here).endswith(said)


def test_a_folder_with_another_versions_runs(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "runs").mkdir()
    (here / "runs" / ".distsim").write_text('{"schema": 0}')
    assert main(["run"]) == 2
    said = (
        "runs='runs': holds runs of another version (schema 0, this one writes 1); choose another, for example runs=runs1"
    )
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (None, "the profile profile.json cannot be read (No such file or directory)"),
        ("{", "the profile profile.json is not JSON"),
        ("{}", "the profile profile.json lacks schema"),
    ],
)
def test_a_profile_that_is_missing_or_torn(
    profile: str | None, said: str, capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    if profile is not None:
        (here / "profile.json").write_text(profile)
    assert main(["run", "cluster.profile=profile.json"]) == 2
    assert capsys.readouterr().err.startswith(f"cluster.profile='profile.json': {said}")
    assert not (here / "runs").exists()
