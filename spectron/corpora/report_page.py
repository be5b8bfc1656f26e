"""The pages of a corpus report: Markdown and HTML."""

from __future__ import annotations

import json
from typing import Any

from spectron.utils.html import Histogram, Section, render

FACTS = ("hours", "utterances", "speakers", "books", "recordings", "with_text", "words", "shards", "duplicate_ids")
PLOTS = (
    ("seconds", "Length of utterances", "seconds"),
    ("minutes_per_speaker", "Speech per speaker", "minutes"),
    ("score_per_token", "Score of pseudo-labels", "log-probability per token"),
)


LISTS = (("rejected", "Left out"), ("notes", "Notes"))


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# Corpus", "", "| | |", "|---|---:|", *(f"| {_words(n)} | {_figure(report[n])} |" for n in FACTS), ""]
    for name, count in report["labelled_by"].items():
        lines.append(f"- {count:,} texts by {_plain(name)}")
    lines += ["", "| | n | min | 5 % | median | mean | 95 % | max |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for key, title, unit in _plots(report):
        cells = (_figure(report[key][name]) for name in ("n", "min", "p5", "median", "mean", "p95", "max"))
        lines.append(f"| {title}, {unit} | {' | '.join(cells)} |")
    for key, title in LISTS:
        if report[key]:
            lines += ["", f"## {title}", "", "| reason | how many | the first |", "|---|---:|---|"]
            for reason, group in report[key].items():
                lines.append(f"| {_plain(reason)} | {group['count']:,} | {_plain(group['first'][0])} |")
    return "\n".join(lines) + "\n"


def _plots(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [plot for plot in PLOTS if report[plot[0]]["n"]]


def _plain(text: str) -> str:
    """Text for a cell of a Markdown table: one line, bars escaped."""
    return " ".join(text.replace("|", "\\|").split())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def page(report: dict[str, Any]) -> str:
    """The report as HTML: tables and histograms."""
    facts = [(_words(name), _figure(report[name])) for name in FACTS]
    facts += [(f"texts by {name}", _figure(count)) for name, count in report["labelled_by"].items()]
    sections = [
        Section("Contents", facts),
        Section("Distributions", histograms=[_histogram(report[key], *words) for key, *words in _plots(report)]),
        *(_reasons_section(report[key], title) for key, title in LISTS),
        Section("Settings", code=json.dumps(report["made_by"].get("settings", {}), indent=1, ensure_ascii=False)),
    ]
    return render("Corpus", (), sections)


def _reasons_section(reasons: dict[str, Any], title: str) -> Section:
    if not reasons:
        return Section(title, notes=["Nothing."])
    rows = [(reason, f"{group['count']:,}", ", ".join(group["first"])) for reason, group in reasons.items()]
    return Section(title, rows, ("Reason", "How many", "The first of them"))


def _histogram(values: dict[str, Any], title: str, unit: str) -> Histogram:
    caption = f"{title}: median {values['median']:,.4g}, mean {values['mean']:,.4g} {unit}, n = {values['n']:,}"
    return Histogram(caption, **values["histogram"])
