"""The house: who imports whom, how long a file may be, and what may not be written into one."""

import ast
import graphlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports only from rungs below its own, and from its own folder: one rung a folder.
LADDER = (
    "errors",
    "types",
    "config",
    "utils",
    "parallel",
    "audio",
    "vocoders",
    "models",
    "pretrained",
    "data",
    "cost",
    "objectives",
    "checkpoints",
    "training",
    "compile",
    "inference",
    "recognition",
    "corpora",
    "evaluation",
    "noisy_student",
    "export",
    "serve",
    "cli",
    "__main__",
)
RUNG = {name: i for i, name in enumerate(LADDER)}
# The same inside spectron/evaluation, files and folders.
EVALUATION = ("results", "judges", "metrics", "report", "suite", "score", "suites", "counting")
STRANGERS = ("data", "models")  # they meet in types.Batch and know nothing of each other
CORPUS_LIBRARIES = ("seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text", "apache_beam")
ABSENT = (
    *CORPUS_LIBRARIES,
    *("clu", "librosa", "soundfile", "soxr", "numba", "sentencepiece", "sklearn", "PIL", "torch", "safetensors"),
)


def tracked() -> list[Path]:
    """Files under version control, or all that are not generated where there is no git."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, capture_output=True, check=False)
        if listed.returncode == 0:
            return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]
    made = {".git", ".venv", ".cache", "runs", "build", "dist", "__pycache__"}
    found = (path for path in ROOT.rglob("*") if path.is_file() and not path.is_symlink())
    return [p for p in found if not any(part in made or part.endswith((".egg-info", "_cache")) for part in p.parts)]


FILES = tracked()
PYTHON = sorted(path for path in FILES if path.suffix == ".py")
MODULES = [path for path in PYTHON if path.is_relative_to(ROOT / "spectron")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def area_of(path: Path) -> str:
    """The part of the package a file belongs to: "data" for spectron/data/…, "types" for spectron/types.py."""
    return path.relative_to(ROOT / "spectron").parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names a file imports, at the top or inside a function, `from a import b` as both a and a.b."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative imports hide the direction"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_is_something_to_check():
    assert {"types", "config", "audio", "data", "models"} <= {area_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down_the_ladder(path):
    area = area_of(path)
    if area == "__init__":
        public = {"spectron.inference.api", "spectron.inference.api.Spectron"}  # for type checkers
        assert {name for name in imports_of(path) if name.startswith("spectron.")} <= public
        return
    assert area in RUNG, f"spectron/{area} has no place on the ladder; give it one in this test"
    for name in imports_of(path):
        other = name.split(".")[1] if name.startswith("spectron.") else None
        if other is None or other == area or other.startswith("__"):
            continue
        assert other in RUNG, f"{name_of(path)} imports {name}, which does not exist or has no rung"
        assert RUNG[other] < RUNG[area], f"{name_of(path)} imports {name}, which stands above it"
        assert {area, other} != set(STRANGERS), f"{name_of(path)} imports {name}: data and models meet in types.Batch"


def test_evaluation_has_a_ladder_of_its_own():
    house = ROOT / "spectron" / "evaluation"
    for path in (p for p in MODULES if p.is_relative_to(house) and p.name != "__init__.py"):
        area = path.relative_to(house).parts[0].removesuffix(".py")
        assert area in EVALUATION, f"{name_of(path)} has no place on evaluation's ladder; give it one in this test"
        for name in imports_of(path):
            parts = name.split(".")
            if name.startswith("spectron.evaluation.") and parts[2] != area:
                assert parts[2] in EVALUATION[: EVALUATION.index(area)], f"{name_of(path)} imports {name} from above"
                assert {area, parts[2]} != {"suites", "score"}, f"{name_of(path)}: suites and score are neighbours"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_stay_in_their_folders(path):
    names = imports_of(path)
    roots = {name.split(".")[0] for name in names}
    if area_of(path) == "export":  # the SavedModel writer, when it is asked for
        top = ast.parse(path.read_text(encoding="utf-8")).body
        roots = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    if not name_of(path).startswith(("spectron/data/seqio/", "spectron/corpora/")):
        assert not roots & set(CORPUS_LIBRARIES), f"{name_of(path)}: only data/seqio and corpora use these libraries"
    if area_of(path) not in ("models", "parallel"):
        assert not any(name.startswith("flax.linen") for name in names), f"{name_of(path)}: models alone use flax.linen"
        assert "flax.linen" not in path.read_text(encoding="utf-8")


def test_no_module_imports_itself_through_others():
    """No import cycle, imports inside functions included."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES
    }
    graph = {}
    for name, path in modules.items():
        graph[name] = sorted({other for other in imports_of(path) if other in modules} - {name, "spectron"})
        # `from package import module` needs the module, not what else its package imports.
        graph[name] = [m for m in graph[name] if not any(other.startswith(f"{m}.") for other in graph[name])]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError naming the modules


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_compiled_is_under_version_control(path):
    assert path.suffix not in (".pyc", ".pyo", ".so", ".o", ".a"), f"{name_of(path)} is made from a source: remove it"
    assert "__pycache__" not in path.parts


@pytest.mark.parametrize("path", [path for path in PYTHON if "configs" not in path.parts], ids=name_of)
def test_a_module_is_a_page(path):
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= 420, f"{name_of(path)} has {lines} lines: split it where a second reason to change appears"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 75, f"{name_of(path)}:{node.lineno}: {node.name} has {length} lines"


MACHINE_PATH = re.compile(r"(?<![\w.*$}~-])/(?:home|Users|root|tmp|work|mnt)/\w")
INDEX_ADDRESS = re.compile(
    r"https?://(?:[\w.-]*\.)?(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|pkg\.dev|gcr\.io)"
)
BUCKET = re.compile(r"\b(?:gs|s3)://[a-z0-9]")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_machine_is_written_into_a_file(path):
    if path == Path(__file__).resolve() or b"\0" in path.read_bytes()[:4096]:
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for pattern in (MACHINE_PATH, INDEX_ADDRESS, BUCKET):
            assert not pattern.search(line), (
                f"{name_of(path)}:{number}: {pattern.search(line).group()!r} belongs to one machine"
            )


def test_the_patterns_find_what_they_are_for():
    assert MACHINE_PATH.search("cd /home/ann/spectron")
    assert MACHINE_PATH.search('"/tmp/x"')
    assert not MACHINE_PATH.search("https://example.org/home/page and ~/tmp/x and a/tmp/b")
    assert INDEX_ADDRESS.search("--index-url https://download.pytorch.org/whl/cpu")
    assert BUCKET.search("gs://my-bucket/data")


def test_models_training_and_decoding_need_no_corpus_library(run_python):
    """Where these cannot be imported, modules below `export` import (but the seqio adapter)."""
    areas = set(LADDER[: RUNG["export"]]) - {"data", "corpora", "pretrained"}
    names = [
        name_of(p).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for p in MODULES
        if area_of(p) in areas
    ]
    names += [
        f"spectron.data.{n}"
        for n in ("vocabulary", "sources", "batches", "packed")
        if (ROOT / f"spectron/data/{n}.py").is_file()
    ]
    code = f"""
import importlib, sys
for name in {ABSENT!r}:
    sys.modules[name] = None  # any import of it raises
for name in {sorted(names)!r}:
    importlib.import_module(name)
print("ok")
"""
    assert run_python(code).stdout.strip().endswith("ok")
