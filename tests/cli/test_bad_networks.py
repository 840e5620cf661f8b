"""Bad networks: exit code 2 and a line for each problem, before anything runs; nothing is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distsim.cli import main

TAKE = "add cluster.network=switch or take cluster=switch"
LINKS = "only for a network of links"
RING = "cluster=switch cluster.network=ring"
TREE = "cluster=switch cluster.network=fat_tree cluster.leaf_size=4 cluster.uplinks=1"
NODES = "cluster=switch cluster.network=two_level cluster.node_size=4 cluster.node_bandwidth=1GB/s cluster.node_latency=1us"
TORUS = "cluster=switch cluster.network=torus"
FACTOR = "a number greater than 0 and at most 1000000"
SINGLE = {
    "cluster=switch cluster.network=rign": "cluster.network='rign': one of loopback, switch, fully_connected, ring, "
    "two_level, fat_tree, torus, graph; did you mean ring?",
    "cluster.network=ring": "cluster.bandwidth=None: must be given with cluster.network=ring\n"
    "cluster.latency=None: must be given with cluster.network=ring",
    f"{RING} cluster.uplinks=2": "cluster.uplinks=2: only for cluster.network=fat_tree; add cluster.network=fat_tree",
    f"{RING} cluster.nics=2": "cluster.nics=2: only for cluster.network=switch or two_level",
    "cluster.nics=2": f"cluster.nics=2: only for cluster.network=switch or two_level; {TAKE}",
    "cluster=switch cluster.nics=0": "cluster.nics=0: a whole number from 1 to 1024",
    "cluster=switch cluster.duplex=hlaf": "cluster.duplex='hlaf': one of full, half; did you mean half?",
    "cluster.duplex=half": f"cluster.duplex='half': {LINKS}; {TAKE}",
    "cluster.slow={host1:2}": f"cluster.slow={{'host1': 2}}: {LINKS}; {TAKE}",
    "cluster.transport.window_bytes=64kB": "cluster.transport.window_bytes=64000.0: "
    f"{LINKS}: loopback is as measured; {TAKE}",
    "cluster=switch cluster.transport.preset=lv8": "cluster.transport.preset='lv8': one of none, lv08; did you mean lv08?",
    "cluster=switch cluster.transport=lv08": "cluster.transport='lv08': a group of keys; its keys are "
    "cluster.transport.preset, cluster.transport.bandwidth_factor, cluster.transport.latency_factor, "
    "cluster.transport.message_seconds, cluster.transport.window_bytes, cluster.transport.eager_bytes, "
    "cluster.transport.one_at_a_time",
    "cluster=switch cluster.transport.bandwidth_factor=0": "cluster.transport.bandwidth_factor=0: "
    "a number greater than 0 and at most 1",
    "cluster=switch cluster.transport.latency_factor=-1": "cluster.transport.latency_factor=-1: a number from 0 to 1000000",
    "cluster=switch cluster.transport.message_seconds=5": "cluster.transport.message_seconds=5: "
    "a bare number counts seconds, at most 1; write the unit; did you mean 5us or 5ms?",
    "cluster=switch cluster.transport.window_bytes=0": "cluster.transport.window_bytes=0: "
    "a size greater than 0 with its unit, like 4MiB",
    "cluster=switch cluster.transport.eager_bytes=-1": "cluster.transport.eager_bytes=-1: "
    "a size of 0 or more with its unit, like 25MB",
    "cluster=switch cluster.transport.one_at_a_time=1": "cluster.transport.one_at_a_time=1: true or false",
    "cluster=switch cluster.transport.window=1MB": "cluster.transport.window='1MB': no such key; "
    "did you mean cluster.transport.window_bytes?",
    "cluster=switch cluster.slow=3": "cluster.slow=3: a map from cables or hosts to factors; like cluster.slow={host3: 2}",
    "cluster=switch cluster.slow.host1=0": f"cluster.slow.host1=0: {FACTOR}",
    "cluster=switch cluster.slow.hots1=2": "cluster.slow.hots1=2.0: the name of a cable (host0, host1, host2, ...) "
    "or of one of its ends; did you mean host1?",
    "cluster=switch cluster.background=1": "cluster.background.all=1: a number 0 or more and less than 1",
    "cluster=switch cluster.background.host9=0.5": "cluster.background.host9=0.5: "
    "the name of a cable (host0, host1, host2, ...) or of one of its ends; did you mean host3?",
    f"{TREE} cluster.slow={{leaf0-spine1:2}}": "cluster.slow.leaf0-spine1=2.0: "
    "the name of a cable (host0, host1, host2, ...) or of one of its ends; did you mean leaf0-spine0?",
    f"{NODES} cluster.workers=6": "cluster.workers=6: must divide by the 4 devices of a node; nearest: 4 or 8",
    f"{NODES} cluster.nics=8": "cluster.nics=8: at most one for each of the 4 devices of a node",
    f"{TREE} cluster.placement=cyclic cluster.workers=9": "cluster.workers=9: must divide by the 4 hosts of a leaf, "
    "to place them in turn; nearest: 8 or 12",
    f"{TORUS} cluster.shape=[4]": "cluster.shape=[4]: two or three whole numbers, like [4,4] or [4,4,2]",
    f"{TORUS} cluster.shape=[2,0]": "cluster.shape=[2, 0]: a whole number from 1 to 1000000",
    f"{TORUS} cluster.shape=[3,1]": "cluster.shape=[3, 1]: the run needs 4 hosts, and it has 3",
    f"{TORUS} cluster.shape=[2,2] strategy=sync_ps": "cluster.shape=[2, 2]: the run needs 5 hosts, "
    "1 of them for parameter servers, and it has 4",
    "cluster=switch cluster.network=fully_connected cluster.workers=3000 budget.samples=64000": "cluster.workers=3000: "
    "at most 2048 hosts: a cable lies between every two; take cluster.network=switch",
    "cluster=switch cluster.efficiency=0.5": "cluster.efficiency=0.5: only for cluster.device=roofline; "
    "add cluster.device=roofline",
    "cluster=dgx_h100 cluster.efficiency=1.5": "cluster.efficiency=1.5: a number greater than 0 and at most 1",
    "backend=real cluster=dgx_h100 cluster.workers=4 cluster.node_size=2 cluster.nics=2": "cluster.network='two_level': "
    "backend=real runs on this machine: loopback, or one node of two_level; "
    "take cluster=local4 cluster.workers=4, or backend=modeled",
}  # fmt: skip
GOOD = """
hosts: [a, b, c, d]
switches: [s, t]
links:
- {between: [a, s], bandwidth: 10Gbit/s, latency: 5us}
- {between: [b, s], bandwidth: 10Gbit/s, latency: 5us}
- {between: [s, t], bandwidth: 10Gbit/s, latency: 5us, name: trunk}
- {between: [t, c], bandwidth: 10Gbit/s, latency: 5us}
- {between: [t, d], bandwidth: 10Gbit/s, latency: 5us}
routes:
- {from: a, to: c, links: [a-s, trunk, t-c]}
routing: shortest
"""
LINK = "- {between: [t, d], bandwidth: 10Gbit/s, latency: 5us}\n"
CYCLE = "- {between: [c, d], bandwidth: 10Gbit/s, latency: 5us}\n"
AWAY = "- {between: [s, t], bandwidth: 10Gbit/s, latency: 5us, name: trunk}\n"
ROUTE = "- {from: a, to: c, links: [a-s, trunk, t-c]}\n"
GRAPHS = {  # what takes the place of what -> what is said
    ("", ""): "",
    ("shortest", "tree"): "",
    (LINK + "routes:\n" + ROUTE + "routing: shortest", LINK + CYCLE + "routing: tree"): "routing='tree': "
    "a tree has no cycle, and t-d, t-c, c-d are one; remove one, or take cluster.graph.routing=shortest",
    (LINK, ""): "links='a-d': every two hosts need a way, and these have none; add a link",
    (AWAY + "- {between: [t, c]", "- {between: [b, c]"): "routes.0.links='trunk': the name of a link",
    (AWAY, ""): "routes.0.links='trunk': the name of a link",
    (AWAY, "", ROUTE, ""): "links='a-c': every two hosts need a way, and these have none; add a link",
    ("[t, d]", "[d, d]"): "links.4.between='d-d': a link joins two different nodes; remove it",
    ("[t, d]", "[c, t]"): "links.4.between='c-t': every two nodes have one link: t-c is there, too; "
    "remove one, and give the other the bandwidth of both",
    ("[t, d]", "[t, dd]"): "links.4.between='dd': a host or a switch; did you mean d?",
    ("[t, d]", "t"): "links.4.between='t': two names; like [a, b]",
    (LINK, LINK.replace("}", ", name: trunk}")): "links.4.name='trunk': every link has a name of its own",
    (LINK, LINK.replace("}", ", name: a/b}")): "links.4.name='a/b': a name of letters, digits, _ and -",
    (LINK, LINK.replace("10Gbit/s", "10Gb")): "links.4.bandwidth='10Gb': a bandwidth greater than 0 with its unit, "
    "like 10Gbit/s or 25GB/s; did you mean 10Gbit/s or 10GB/s?",
    (LINK, LINK.replace("5us", "5")): "links.4.latency=5: a bare number counts seconds, at most 1; write the unit; "
    "did you mean 5us or 5ms?",
    (LINK, LINK.replace("latency", "latnecy")): "links.4.latnecy='5us': no such key; "
    "did you mean cluster.graph.links.4.latency?\ncluster.graph.links.4.latency=None: a time 0 or more",
    ("[s, t]\nlinks", "[s, t, a]\nlinks"): "switches='a': is among the hosts, too; remove one",
    ("[a, b, c, d]", "[a, b, c, d, d]"): "hosts='d': every name once; remove one",
    ("[a, b, c, d]", "[a, b, c, d-e]"): "hosts='d-e': a name of letters, digits and _, at most 50 of them",
    ("[a, b, c, d]", "3"): "hosts=3: a list of names; like [a, b, c]",
    ("[a, b, c, d]\nswitches: [s, t]", "[a, b, c]\nswitches: [s, t, d]"): "hosts=3: the run needs 4 hosts",
    ("shortest", "given"): "routes='a-b (and 4 more)': every two hosts need a way, and these have none; give its links",
    ("shortest", "shortes"): "routing='shortes': one of shortest, given, tree; did you mean shortest?",
    ("routing", "ruoting"): "ruoting='shortest': no such key; did you mean cluster.graph.routing?",
    ("from: a", "from: x"): "routes.0.from='x': a host",
    ("[a-s, trunk, t-c]", "[a-s, t-c]"): "routes.0.links='t-c': a link at s, to which those before it lead",
    ("[a-s, trunk, t-c]", "[a-s, trunk]"): "routes.0.links='a-s, trunk': must lead to c, and lead to t",
    ("[a-s, trunk, t-c]", "[]"): "routes.0.links=[]: the names of links, in the order of travel; like [a-s, s-b]",
    (ROUTE, 2 * ROUTE): "routes.1.from='a': every route once: that to c is there, too; remove one",
    ("routing: shortest", "hosts: [a]"): "='g.yaml': a YAML file: the key hosts is there twice in \"g.yaml\", line 2",
    ("routing: shortest", "\trouting: x"): "='g.yaml': a YAML file: while scanning for the next token found character",
    (GOOD, "3"): "=3: the path of a YAML file, or a group of keys; its keys are hosts, switches, links, routes, routing",
    (GOOD, ""): "=None: the path of a YAML file, or a group of keys; its keys are hosts, switches, links, routes, routing",
}  # fmt: skip


def refused(words: str, capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What is said, after checking that nothing else happened."""
    before = sorted(folder.iterdir())
    assert main(["run", *words.split()]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sorted(folder.iterdir()) == before
    return output.err.removesuffix("\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", SINGLE)
def test_refuses(words: str, capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert refused(words, capsys, here) == SINGLE[words]


@pytest.mark.parametrize("changes", GRAPHS)
def test_refuses_a_graph(changes: tuple[str, ...], capsys: pytest.CaptureFixture[str], here: Path) -> None:
    text = GOOD
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new, 1)
    (here / "g.yaml").write_text(text)
    words = "cluster=switch cluster.network=graph cluster.bandwidth=null cluster.latency=null cluster.graph=g.yaml"
    if not GRAPHS[changes]:
        assert main(["run", *words.split(), "budget.updates=1"]) == 0
        return
    said = refused(words, capsys, here)
    assert said.startswith("cluster.graph")
    assert re.sub(r"^cluster\.graph\.?", "", said).startswith(GRAPHS[changes])


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    words = "cluster=switch cluster.network=graph cluster.bandwidth=null cluster.latency=null cluster.graph=g.yaml"
    assert refused(words, capsys, here).endswith("a YAML file that can be read (No such file or directory)")
