"""A corpus report for people: Markdown, and one HTML page that needs nothing else."""

from __future__ import annotations

import html
from typing import Any

FACTS = ("hours", "utterances", "speakers", "books", "recordings", "with_text", "words", "shards", "duplicate_ids")
PLOTS = (
    ("seconds", "Length of utterances", "seconds"),
    ("minutes_per_speaker", "Speech per speaker", "minutes"),
    ("score_per_token", "Score of pseudo-labels", "log-probability per token"),
)
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d6dbe1;--bar:#2f6f9f;--page:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaee;--soft:#a3adb8;--line:#3a424c;--bar:#6fb1e0;--page:#14181d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
th,td{text-align:left;padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.number{text-align:right;font-variant-numeric:tabular-nums}small,figcaption{color:var(--soft)}
figure{margin:1rem 0}svg{max-width:100%;height:auto}rect{fill:var(--bar)}text{fill:var(--soft);font-size:11px}
line{stroke:var(--line)}pre{white-space:pre-wrap;overflow-wrap:anywhere}td{overflow-wrap:anywhere}
"""


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["# Corpus", "", "| | |", "|---|---:|", *(f"| {_words(n)} | {_figure(report[n])} |" for n in FACTS), ""]
    for who, count in report["labelled_by"].items():
        lines.append(f"- {count:,} texts by {_plain(who)}")
    lines += ["", "| | n | min | 5 % | median | mean | 95 % | max |", "|---|---:|---:|---:|---:|---:|---:|---:|"]
    for key, title, unit in PLOTS:
        found = report[key]
        if found["n"]:
            cells = (found[name] for name in ("n", "min", "p5", "median", "mean", "p95", "max"))
            lines.append(f"| {title}, {unit} | " + " | ".join(map(_figure, cells)) + " |")
    for key, title in (("rejected", "Left out"), ("notes", "Notes")):
        if report[key]:
            lines += ["", f"## {title}", "", "| reason | how many | the first |", "|---|---:|---|"]
            for reason, found in report[key].items():
                lines.append(f"| {_plain(reason)} | {found['count']:,} | {_plain(found['first'][0])} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def page(report: dict[str, Any]) -> str:
    """The report as one HTML page: tables, and histograms as inline SVG."""
    facts = "".join(
        f'<tr><th scope="row">{_words(n)}</th><td class="number">{_figure(report[n])}</td></tr>' for n in FACTS
    )
    facts += "".join(
        f'<tr><th scope="row">texts by {html.escape(who)}</th><td class="number">{_figure(count)}</td></tr>'
        for who, count in report["labelled_by"].items()
    )
    plots = "".join(_histogram(report[key], title, unit) for key, title, unit in PLOTS if report[key]["n"])
    lists = "".join(_list(report[key], title) for key, title in (("rejected", "Left out"), ("notes", "Notes")))
    made_by = html.escape(str(report["made_by"].get("settings", "")))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Corpus</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Corpus</h1><table>{facts}</table><h2>Distributions</h2>{plots}{lists}"
        f"<h2>Settings</h2><pre>{made_by}</pre></body></html>\n"
    )


def _list(reasons: dict[str, Any], title: str) -> str:
    if not reasons:
        return f"<h2>{title}</h2><p>Nothing.</p>"
    rows = "".join(
        f'<tr><th scope="row">{html.escape(reason)}</th><td class="number">{found["count"]:,}</td>'
        f"<td><small>{html.escape(', '.join(found['first']))}</small></td></tr>"
        for reason, found in reasons.items()
    )
    return (
        f'<h2>{title}</h2><table><tr><th scope="col">reason</th><th scope="col">how many</th>'
        f'<th scope="col">the first of them</th></tr>{rows}</table>'
    )


def _histogram(found: dict[str, Any], title: str, unit: str) -> str:
    counts, edges = found["histogram"]["counts"], found["histogram"]["edges"]
    width, height, base = 640, 160, 130
    step = width / len(counts)
    highest = max(counts)
    bars = "".join(
        f'<rect x="{i * step + 0.5:.1f}" y="{base - 120 * n / highest:.1f}" width="{step - 1:.1f}" '
        f'height="{120 * n / highest:.1f}"><title>{a:g} to {b:g}: {n:,}</title></rect>'
        for i, (n, a, b) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True))
        if n
    )
    marks = "".join(
        f'<text x="{x:.0f}" y="{base + 16}" text-anchor="{anchor}">{value:,.4g}</text>'
        for x, value, anchor in (
            (0, edges[0], "start"),
            (width / 2, (edges[0] + edges[-1]) / 2, "middle"),
            (width, edges[-1], "end"),
        )
    )
    words = f"{title}: median {found['median']:,.4g}, mean {found['mean']:,.4g} {unit}, n = {found['n']:,}"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{html.escape(words)}"><line x1="0" x2="{width}" y1="{base}" y2="{base}"/>{bars}{marks}</svg>'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
    )
