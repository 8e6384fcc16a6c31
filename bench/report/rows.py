"""What the table and the page say, before either writes it: rows of contrasts, and the facts below them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import text as words
from bench.estimate import names as naming
from bench.estimate.figures import STARTUP
from bench.report import marks
from bench.text import named

Json = Mapping[str, Any]

MOST_FAILURES = 12
_RESULTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "test_accuracy": ("test accuracy", lambda value: f"{100 * value:.2f} %"),
    "mse": ("MSE", words.precise),
    "max_weight_error": ("largest error of a weight", words.precise),
    "loss": ("loss", words.precise),
    "accuracy": ("accuracy", lambda value: f"{100 * value:.2f} %"),
    "test_nats_per_character": ("nats a character", words.precise),
    "entropy_nats_per_character": ("least possible", words.precise),
    "hit_rate_at_10": ("hit rate at 10", lambda value: f"{100 * value:.1f} %"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contrast with both its cells and the names that readers know them by."""

    contrast: Json
    baseline: Json
    arm: Json
    workload: str
    mode: str  # empty where modes are compared: the arms' labels name theirs
    phase: str
    batch: str
    details: tuple[str, ...]

    @property
    def title(self) -> str:
        """The row in one phrase."""
        return " ".join(filter(None, [self.workload, self.phase, self.mode, f"batch {self.batch}", *self.details]))

    @property
    def ahead(self) -> str | None:
        """Who is quicker, where that may be said."""
        if self.contrast["verdict"] not in {"faster", "slower", "small"}:
            return None
        return str((self.arm if self.contrast["ratio"] > 1 else self.baseline)["label"])


def rows(summary: Json) -> list[Row]:
    """The contrasts of a run in the order of its matrix."""
    cells = {cell["id"]: cell for cell in summary["cells"]}
    plain = [cell["cell"] for cell in summary["cells"]]
    names = naming.workload_labels({cell["comparison"]: cell["cell"] for cell in summary["cells"]})
    compared = {axis for one in summary["contrasts"] for axis in _differing(one, cells)}
    varying = [axis for axis in naming.varying_axes(plain) if axis not in compared]
    return [_row(one, cells, names, varying, compared_modes="mode" in compared) for one in summary["contrasts"]]


def heads(table: Sequence[Row]) -> tuple[str, str] | None:
    """The names of baseline and arm, where they are the same in every row."""
    pairs = {(row.baseline["label"], row.arm["label"]) for row in table}
    return next(iter(pairs)) if len(pairs) == 1 else None


def direction(table: Sequence[Row]) -> str:
    """Which way a ratio reads."""
    baseline, arm = heads(table) or ("the baseline", "the arm")
    return f"time of {baseline} ÷ time of {arm}: above 1 {arm} is faster"


def facts(summary: Json) -> list[tuple[str, str]]:
    """Where the numbers come from, as pairs of a heading and a line."""
    run = summary["run"]
    plain = [cell["cell"] for cell in summary["cells"]]
    started = " ".join(str(run["started_at"]).split("T"))
    found = [
        ("ratio", direction(rows(summary))),
        ("decides", _decides(summary)),
        ("machine", machine(summary["environment"])),
        ("CPUs", processors(run["cpus"])),
        ("launcher", f"{run['launcher']}, {run['schedule']}, seed {run['seed']}"),
        ("settings", ", ".join(naming.fixed_axes(plain))),
        ("images", _by_label(summary, lambda cell: marks.short_image(cell["image"]) if cell["image"] else None)),
        ("versions", _by_label(summary, _versions)),
        ("telemetry", _telemetry(summary)),
        ("blocks", _blocks(summary)),
        ("run", f"{run['id']}, started {started}, {naming.code(run['commit'], summary['environment'])}"),
    ]
    return [(heading, words.clean(text)) for heading, text in found if text]


def results(summary: Json) -> list[str]:
    """What training came to: accuracy, loss, MSE, cross-validation, and the predictions of the classic preset."""
    lines = []
    for title, cells in _trained(summary).items():
        parts = [part for key in _RESULTS if (part := _result(key, cells))]
        after = _after(cells)
        if parts:
            lines.append(words.clean(f"{title}{after}: {'; '.join(parts)}"))
        lines += [words.clean(f"{title}: {text}") for text in (*_cross_validations(cells), *_predictions(cells))]
    reasons = {cell["id"]: str(cell["nulls"].get("evaluation")) for cell in summary["cells"]}
    failed = [f"{cell}: {why}" for cell, why in reasons.items() if why.startswith(naming.EVALUATION_FAILED)]
    return list(dict.fromkeys([*lines, *map(words.clean, failed)]))


def startups(summary: Json) -> list[str]:
    """What every fresh worker costs before its second step, where launchers are compared."""
    cells = {cell["id"]: cell for cell in summary["cells"]}
    compared = [one for one in summary["contrasts"] if "launcher" in _differing(one, cells)]
    lines = []
    for name in dict.fromkeys(one[side] for one in compared for side in ("baseline", "arm")):
        own = cells[name]["metrics"]["startup"]
        told = [f"{one.start} {startup(own[one.name])}" for one in STARTUP]
        lines.append(words.clean(f"{name}: {', '.join(told)}"))
    return lines


def startup(figure: Json) -> str:
    """A median over blocks with its interval, in seconds."""
    ends = f" ({words.interval(figure['ci'], lambda value: words.number(value, 2))})" if figure["ci"] else ""
    return f"{words.seconds(figure['median'])}{ends}"


def failures(summary: Json) -> list[str]:
    """What failed, with the file that holds the end of its log."""
    lines = []
    for one in summary["failures"][:MOST_FAILURES]:
        log = f" (log: {one['log']})" if one["log"] else ""
        kind = f"{one['kind']}: " if one["kind"] else ""
        place = "before the first block" if one["block"] is None else f"block {one['block']}"
        lines.append(words.clean(f"{one['cell']}, {place}: {kind}{one['reason']}{log}"))
    more = len(summary["failures"]) - MOST_FAILURES
    return [*lines, f"and {more} more"] if more > 0 else lines


def machine(environment: Json) -> str:
    """The machine in one line, from whatever of it is known."""
    cpu = environment.get("cpu")
    known: Json = cpu if isinstance(cpu, Mapping) else {"model": cpu}
    cores, memory = known.get("logical"), environment.get("memory_bytes")
    replayed = environment.get("gpu_source") == "replay"
    gpus = [_gpu(gpu, replayed) for gpu in environment.get("gpus") or [] if isinstance(gpu, Mapping)]
    virtual = environment.get("virtualization")
    parts = [
        known.get("model"),
        f"{cores} {'core' if cores == 1 else 'cores'}" if isinstance(cores, int) else None,
        f"{memory / 2**30:.0f} GiB" if isinstance(memory, int | float) else None,
        *gpus,
        environment.get("distribution"),
        f"Linux {environment['kernel']}" if environment.get("kernel") else None,
        f"virtual ({virtual})" if virtual and virtual != "none" else None,
    ]
    return ", ".join(str(part) for part in parts if isinstance(part, str) and part)


def processors(cpus: Json | None) -> str:
    """Where arms and harness ran, and why there; nothing of a run that did not keep it."""
    if not cpus:
        return ""
    arms = [
        f"of {count} {'thread' if count == '1' else 'threads'} on {named(own)}"
        for count, own in sorted(cpus["arms"].items(), key=lambda pair: int(pair[0]))
    ]
    return f"arms {', '.join(arms)}; harness on {named(cpus['control'])}; {cpus['why']}"


def _gpu(gpu: Json, replayed: bool) -> str | None:
    """Its name; a trace that is replayed in its place is never named without saying so."""
    name = gpu.get("name")
    return f"{name} (replay)" if replayed and "replay" not in str(name).lower() else name


def _row(
    one: Json, cells: Mapping[str, Json], names: Mapping[str, str], varying: Sequence[str], *, compared_modes: bool
) -> Row:
    baseline, arm = cells[one["baseline"]], cells[one["arm"]]
    return Row(
        contrast=one,
        baseline=baseline,
        arm=arm,
        workload=names[one["comparison"]],
        mode="" if compared_modes else _both(baseline, arm, "mode"),
        phase=_both(baseline, arm, "phase"),
        batch=_both(baseline, arm, "batch_size"),
        details=tuple(naming.axis_value(axis, baseline["cell"]) for axis in varying),
    )


def _both(baseline: Json, arm: Json, axis: str) -> str:
    values = dict.fromkeys(str(cell["cell"][axis]) for cell in (baseline, arm))
    return "/".join(values)


def _differing(one: Json, cells: Mapping[str, Json]) -> list[str]:
    left, right = cells[one["baseline"]]["cell"], cells[one["arm"]]["cell"]
    return [axis for axis in left if left[axis] != right[axis]]


def _decides(summary: Json) -> str:
    """The metric of each phase, and what an interval and a p are."""
    phases = {cell["comparison"]: cell["cell"]["phase"] for cell in summary["cells"]}
    of = {"throughput": "throughput (whole slices)", "latency": "latency (steps that end with their output in memory)"}
    pairs = dict.fromkeys(f"{phases[one['comparison']]} by {of[one['metric']]}" for one in summary["contrasts"])
    count = len(summary["contrasts"])
    family = "1 contrast" if count == 1 else f"{count} contrasts"
    return f"{', '.join(pairs)}; wall time, 95 % intervals over blocks, Holm over {family}"


def _telemetry(summary: Json) -> str:
    """Said where it is not what it seems: a GPU that is none."""
    replayed = summary["telemetry"].get("source") == "replay"
    return "replay: a trace stands in for a GPU, and nothing of it was measured here" if replayed else ""


def _by_label(summary: Json, tell: Callable[[Json], str | None]) -> str:
    """What is told of the cells, once for all arms of the same name and text."""
    told = dict.fromkeys((cell["label"], text) for cell in summary["cells"] if (text := tell(cell)))
    return "; ".join(f"{label} {text}" for label, text in told)


def _versions(cell: Json) -> str | None:
    own = naming.own_version(cell)
    others = [f"{key} {value}" for key, value in cell["versions"].items() if value and str(value) != own]
    return ", ".join([*([own] if own else []), *others]) or None


def _blocks(summary: Json) -> str:
    counts = sorted({one["blocks"] for one in summary["contrasts"]})
    each = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"
    disturbed: dict[str, tuple[int, str]] = {}
    for one in summary["contrasts"]:
        found = (one["blocks_repeated"], str(one["repeated_because"]))
        disturbed[one["comparison"]] = max(found, disturbed.get(one["comparison"], (0, "")))
    causes: Counter[str] = Counter()
    for count, cause in disturbed.values():
        causes.update({cause: count} if count else {})
    because = f" (mostly {causes.most_common(1)[0][0]})" if causes else ""
    failed = len(summary["failures"])
    trials = "1 trial" if failed == 1 else f"{failed} trials"
    return f"{each} a contrast; {causes.total()} disturbed{because}, {trials} failed"


def _trained(summary: Json) -> dict[str, list[Json]]:
    """The cells with an evaluation by the title of their comparison, those of phase train where there are any."""
    titles = {row.contrast["comparison"]: row for row in rows(summary)}
    trained = {cell["cell"]["workload"]["name"] for cell in summary["cells"] if cell["cell"]["phase"] == "train"}
    modes: dict[str, set[str]] = {}
    for cell in summary["cells"]:
        modes.setdefault(cell["comparison"], set()).add(cell["cell"]["mode"])
    shared = {key: own if len(own) == 1 else set() for key, own in modes.items()}
    found: dict[str, list[Json]] = {}
    for cell in summary["cells"]:
        row = titles.get(cell["comparison"])
        told = cell["cell"]["phase"] == "train" or cell["cell"]["workload"]["name"] not in trained
        if row and cell["evaluation"] and told:
            title = " ".join([row.workload, *shared[cell["comparison"]], f"batch {row.batch}", *row.details])
            found.setdefault(title, []).append(cell)
    return found


def _result(key: str, cells: Sequence[Json]) -> str | None:
    name, write = _RESULTS[key]
    told = [
        f"{_trained_by(cell)} {write(cell['evaluation'][key])}"
        for cell in cells
        if cell["evaluation"].get(key) is not None
    ]
    return f"{name} {', '.join(told)}" if told else None


def _after(cells: Sequence[Json]) -> str:
    """After how many steps, where that is one number; of how many, where the budget had no time for all."""
    steps = {cell["evaluation"].get("steps") for cell in cells} - {None}
    if len(steps) != 1:
        return ""
    wanted = {cell["evaluation"].get("cut_from") for cell in cells} - {None}
    of_them = f" of {max(wanted):,}" if wanted else ""
    return f" after {next(iter(steps)):,}{of_them} steps" + (", all that the budget had time for" if wanted else "")


def _trained_by(cell: Json) -> str:
    """The arm, with the solver that it was fitted by where that took no steps."""
    solver = cell["evaluation"].get("solver")
    return f"{cell['label']} (by {solver})" if solver else str(cell["label"])


def _cross_validations(cells: Sequence[Json]) -> Iterator[str]:
    for cell in cells:
        found = cell["evaluation"].get("cross_validation")
        if found:
            mean, sd = words.precise(found["mean"]), words.precise(found["sd"])
            yield f"{_trained_by(cell)}, {found['folds']}-fold cross-validation: {mean} ± {sd} (SD over folds)"


def _predictions(cells: Sequence[Json]) -> Iterator[str]:
    for cell in cells:
        pairs = cell["evaluation"].get("predictions") or []
        told = [f"{_short(pair['x'])} → {_short(pair['y'])}" for pair in pairs if isinstance(pair, Mapping)]
        told += [_short(value) for value in pairs if isinstance(value, int | float)]
        if told:
            yield f"{cell['label']} predicts {', '.join(told)}"


def _short(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
