"""The design's import rule, read from the code as it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

ROOMS_SEEN_FROM = {
    "pipelines": {"pipelines", "components", "leanrec"},
    "components": {"components", "leanrec"},
    "feature_repo": {"feature_repo", "leanrec"},
    "serving": {"serving", "leanrec"},
    "leanrec": {"leanrec"},
    "benchmarks": {"benchmarks", "leanrec", "serving"},
}
ROOMS = set(ROOMS_SEEN_FROM)

FLOORS = [
    {"config", "errors", "files", "gates", "journal", "schema", "triton", "__init__", "processes"},
    {"data"},
    {"features", "validation", "models"},
    {"training", "evaluation"},
    {"export"},
    {"compression"},
    {"release", "report"},
    {"steps", "doctor", "console"},
    {"cli"},
]
GROUND = FLOORS[0]

ABOVE_GROUND = {"feature_repo/": {"features"}, "serving/gateway/": {"data", "features", "release"}}
"""What the gateway and the Feast repository may use of the library besides its ground floor."""

ONLY_IN = {
    "kfp": ("components/", "pipelines/"),
    "feast": ("leanrec/features/", "feature_repo/"),
    "triton_python_backend_utils": ("serving/backends/", "benchmarks/eager/"),
}


def modules_imported_by(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative imports hide which room is meant"
            yield node.module
            if node.module == "leanrec":
                yield from (f"leanrec.{alias.name}" for alias in node.names)


def sources() -> list[str]:
    files = [file for room in sorted(ROOMS) for file in sorted((ROOT / room).rglob("*.py"))]
    assert files
    return [str(file.relative_to(ROOT)) for file in files]


def floor_of(module: str) -> int:
    name = module.split(".")[1] if "." in module else "__init__"
    floors = [level for level, names in enumerate(FLOORS) if name in names]
    assert floors, f"{module}: name the floor of leanrec/{name} in this test and in docs/architecture.md"
    return floors[0]


@pytest.mark.parametrize("source", sources())
def test_a_room_imports_only_what_the_design_allows(source: str) -> None:
    room = source.split("/", maxsplit=1)[0]
    if source.startswith("leanrec/cli/"):
        return
    for module in modules_imported_by(ROOT / source):
        top = module.split(".")[0]
        if top in ROOMS:
            assert top in ROOMS_SEEN_FROM[room], f"{source} imports {module}"
        if room in ("serving", "feature_repo") and top == "leanrec" and module != "leanrec":
            allowed = GROUND | next(
                (more for place, more in ABOVE_GROUND.items() if source.startswith(place)), set()
            )
            assert module.split(".")[1] in allowed, f"{source} imports {module}, above the ground floor"
        if room == "leanrec" and top == "leanrec" and module.count("."):
            here = floor_of(source.removesuffix(".py").replace("/", "."))
            there = floor_of(module)
            same_room = source.split("/")[1].removesuffix(".py") == module.split(".")[1]
            assert there < here or same_room or here == there == 0, f"{source} imports {module}"


@pytest.mark.parametrize("source", sources())
def test_a_framework_stays_in_its_rooms(source: str) -> None:
    for module in modules_imported_by(ROOT / source):
        rooms = ONLY_IN.get(module.split(".")[0])
        assert rooms is None or source.startswith(rooms), f"{source} imports {module}"
