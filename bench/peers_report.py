"""What peers.py prints: a table, JSON, and a plot that needs no library."""

import html
import json
import math

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#7f7f7f", "#bcbd22")


def duration(seconds):
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def print_table(rows):
    """Rows of one layer and token count, best first."""
    print(f"{'peer':16} {'time':>11} {'p20..p80':>23} {'x moejit':>9} {'of limit':>9} {'error':>9}  how")
    ranked = sorted(rows, key=lambda row: (row["median_s"] is None, row["median_s"] or 0))
    for row in ranked:
        if row["median_s"] is None:
            print(f"{row['peer']:16} {'-':>11} {'':>23} {'':>9} {'':>9} {'':>9}  {row['note']}")
            continue
        ratio = f"{row['versus_moejit']:.2f}" if row["versus_moejit"] else "-"
        spread = f"{duration(row['p20_s'])}..{duration(row['p80_s'])}"
        print(f"{row['peer']:16} {duration(row['median_s']):>11} {spread:>23} {ratio:>9} {row['share']:>9.3f} "
              f"{row['error']:>9.1e}  {row['how']}{' ' + row['note'] if row['note'] else ''}")


def print_summary(rows):
    """How far moejit is ahead of the best peer of each point. Less than the limit is no time of the layer: left out."""
    ratios = []
    for key in {(row["layer"], row["tokens"]) for row in rows}:
        best = [row["versus_moejit"] for row in rows if (row["layer"], row["tokens"]) == key and row["peer"] != "moejit"
                and row["versus_moejit"] and row["share"] <= 1]
        ratios += [min(best)] if best else []
    if ratios:
        mean = math.exp(sum(math.log(ratio) for ratio in ratios) / len(ratios))
        print(f"\nmoejit against the best peer of each of {len(ratios)} points: geometric mean {mean:.2f}x, "
              f"least {min(ratios):.2f}x, ahead at {sum(ratio > 1 for ratio in ratios)}")


def write_json(path, report):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")


def write_plot(path, report):
    """One panel a layer: share of the limit over the number of tokens, an SVG file."""
    layers = []
    for row in report["rows"]:
        if row["layer"] not in layers:
            layers.append(row["layer"])
    width, height, left, bottom, top = 560, 300, 60, 40, 30
    parts = []
    for panel, layer in enumerate(layers):
        rows = [row for row in report["rows"] if row["layer"] == layer and row["median_s"]]
        if not rows:
            continue
        base = panel * (height + top + bottom)
        tokens = sorted({row["tokens"] for row in rows})
        low, high = math.log2(max(tokens[0], 1)), math.log2(max(tokens[-1], 2))

        def x_of(count):
            return left + (math.log2(max(count, 1)) - low) / max(high - low, 1e-9) * width

        def y_of(share):
            return base + top + height * (1 - min(share, 1.1) / 1.1)

        parts.append(f'<text x="{left}" y="{base + 18}" font-weight="bold">{html.escape(layer)}: share of the limit '
                     f"({html.escape(report['device'])})</text>")
        for tick in (0, 0.25, 0.5, 0.75, 1.0):
            parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y_of(tick):.1f}" y2="{y_of(tick):.1f}" '
                         f'stroke="#ccc"/><text x="{left - 8}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{tick}</text>')
        for count in tokens:
            parts.append(f'<text x="{x_of(count):.1f}" y="{base + top + height + 18}" text-anchor="middle">{count}</text>')
        names = sorted({row["peer"] for row in rows}, key=lambda name: (name != "moejit", name))
        for number, name in enumerate(names):
            color = COLORS[number % len(COLORS)]
            points = sorted((row["tokens"], row["share"]) for row in rows if row["peer"] == name)
            line = " ".join(f"{x_of(count):.1f},{y_of(share):.1f}" for count, share in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
            parts += [f'<circle cx="{x_of(c):.1f}" cy="{y_of(s):.1f}" r="3" fill="{color}"/>' for c, s in points]
            parts.append(f'<text x="{left + width + 12}" y="{base + top + 14 + 16 * number}" fill="{color}">'
                         f"{html.escape(name)}</text>")
    total = len(layers) * (height + top + bottom)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 160}" height="{total}" '
                   f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>\n'
                   + "\n".join(parts) + "\n</svg>\n")
