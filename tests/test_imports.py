"""Imports point one way, and heavy packages are imported in few places. Read from the source, without importing it."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "distsim"
BELOW = {  # what a room may import of distsim, besides itself
    "interface": set(),
    "topologies": {"interface"},
    "strategies": {"interface"},
    "foreign": set(),
    "signals": set(),
    "durable": set(),
    "locks": set(),
    "registry": {"interface"},
    "catalogue": {"registry"},
    "numerics": {"interface", "workloads"},
    "workloads": {"interface", "foreign"},
    "configuration": {"interface", "registry", "topologies"},
    "results": {"interface", "foreign", "durable", "locks"},
    "backends": {"interface", "numerics", "durable", "locks", "signals"},
    "calibration": {"interface", "durable", "numerics", "workloads", "backends"},
    "composition": {"interface", "registry", "configuration"},
    "explain": {"interface", "catalogue", "configuration", "numerics", "backends", "results"},
    "report": {"interface", "durable", "results", "registry", "explain"},
    "testing": {"interface", "registry", "catalogue", "numerics", "workloads", "backends", "results"},
    "bench": {"durable", "interface", "topologies", "strategies", "numerics", "backends", "workloads", "results"},
}
BELOW["costs"] = {"interface", "configuration", "workloads", "calibration"}
BELOW["execution"] = {*BELOW} - {"report", "composition", "bench"}
BELOW["grammar"] = {"interface", "configuration", "composition"}
BELOW["jobs"] = {"signals", "interface", "configuration", "results", "execution"}
BELOW["api"] = {*BELOW} - {"report"}
BELOW["sweeping"] = {"interface", "configuration", "results", "execution", "jobs", "composition", "grammar", "api"}
BELOW["engines"] = {"signals", "interface", "backends", "results", "execution", "sweeping"}
BELOW["emit"] = {"interface", "configuration", "composition", "grammar", "backends"}
BELOW["commands"] = {*BELOW}
BELOW["cli"] = {"commands", "signals", "interface"}
BELOW["__main__"] = {"cli"}
BELOW |= {"study": {"api", "calibration", "interface", "results"}}
HEAVY = {
    "torch": (
        "numerics/tensors",
        "numerics/codecs_tensors.py",
        "backends/real/",
        "workloads/",
        "calibration/",
        "bench/overhead_reference.py",
    ),
    "numpy": ("bench/", "backends/simulated/marching.py", "backends/simulated/moments.py"),
    "simpy": ("backends/simulated/",),
    "pandas": ("report/", "results/table.py"),
    "plotly": ("report/",),
    "hydra": ("sweeping.py", "composition.py", "grammar.py"),
    "omegaconf": ("sweeping.py", "composition.py"),
    "yaml": ("composition.py", "configuration/graphs.py", "report/command.py"),
}


def imports() -> list[tuple[str, str]]:
    """(file, module) of every import, those inside functions included, those for types only left out."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        for_types = {id(n) for guard in guards for statement in guard.body for n in ast.walk(statement)}
        for node in ast.walk(tree):
            if id(node) in for_types or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"distsim.{n}" for n in names] if node.module == "distsim" else [str(node.module)]
            found += [(file.relative_to(PACKAGE).as_posix(), name) for name in names]
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for file, module in imports():
        room = file.partition("/")[0].removesuffix(".py")
        target = module.removeprefix("distsim.").partition(".")[0]
        if module.startswith("distsim.") and room != "__init__" and target not in BELOW[room] | {room, "__version__"}:
            wrong.append(f"{file} imports {module}")
    assert wrong == []


def test_no_backend_imports_another() -> None:
    kinds = [path.name for path in (PACKAGE / "backends").iterdir() if (path / "__init__.py").exists()]
    wrong = [
        (file, module)
        for file, module in imports()
        for kind in kinds
        if file.startswith("backends/") and module.startswith(f"distsim.backends.{kind}") and kind not in file
    ]
    assert wrong == []


def test_heavy_packages_stay_in_their_rooms() -> None:
    wrong = [
        f"{file} imports {module}"
        for file, module in imports()
        if (top := module.partition(".")[0]) in HEAVY and not file.startswith(HEAVY[top] or "no")
    ]
    assert wrong == []
