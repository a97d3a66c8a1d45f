"""Style sheet of a report, for light and dark screens."""

from __future__ import annotations

# Colours that people with any colour vision tell apart (Okabe and Ito), darker ones on white, lighter ones on black.
_LIGHT = ("#0072b2", "#c2571a", "#00805e", "#a8478b", "#8a6d00", "#5f5f5f", "#7b3fb3", "#2f7fb8")
_DARK = ("#5fb3ee", "#f39a5b", "#3ecfa3", "#e594cc", "#e6cf4a", "#bdbdbd", "#c49bf0", "#9bd0f5")


def _series(colours: tuple[str, ...]) -> str:
    return " ".join(f"--s{number}: {colour};" for number, colour in enumerate(colours))


STYLE = f"""
:root {{ color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --paper: #ffffff; --line: #d9dee4;
  --strong: #30363d; --card: #f5f7f9; {_series(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e9ed; --soft: #9aa5b1; --paper: #14181d; --line: #333b45; --strong: #aab4bf; --card: #1c2229;
    {_series(_DARK)} }}
}}
@media print {{ details > * {{ display: block; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; margin: 0 auto; max-width: 76rem;
  padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }}
h1 {{ font-size: clamp(1.3rem, 3.2vw, 1.9rem); line-height: 1.3; font-weight: 650; margin: .25rem 0 1.25rem;
  max-width: 52rem; text-wrap: pretty; }}
h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .75rem; }}
h3 {{ font-size: 1rem; margin: 1.75rem 0 .4rem; }}
.kind {{ color: var(--soft); font-size: .9rem; margin: 0; }}
.note {{ color: var(--soft); font-size: .88rem; margin: .4rem 0; max-width: 60rem; }}
figure {{ margin: 0; }}
figcaption {{ font-size: .88rem; line-height: 1.35; padding-top: .3rem; }}
figcaption b {{ font-weight: 600; }}
figcaption span {{ color: var(--soft); white-space: nowrap; }}
.panels {{ display: grid; gap: .9rem; align-items: start; margin: .6rem 0 1.2rem; }}
.panels img {{ display: block; width: 100%; height: auto; border-radius: 3px; background: var(--card); }}
.lead {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }}
.small {{ grid-template-columns: repeat(auto-fill, minmax(min(45%, 8.5rem), 1fr)); max-width: 76rem; }}
@media (min-width: 56rem) {{ .lead {{ grid-template-columns: repeat(var(--columns), minmax(0, 1fr)); }}
  .small {{ grid-template-columns: repeat(var(--columns), minmax(0, 9rem)); }} }}
.charts {{ display: grid; gap: 1.2rem; max-width: 66rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }}
.chart svg {{ display: block; width: 100%; height: auto; }}
.chart text {{ font-size: 9.5px; fill: var(--soft); }}
.chart figcaption {{ text-align: center; }}
.grid {{ stroke: var(--line); stroke-width: 1; }}
.line {{ fill: none; stroke-width: 1.5; opacity: .55; }}
.bar {{ stroke-width: 1.6; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; margin: .2rem 0 .8rem; padding: 0;
  font-size: .9rem; }}
.legend li {{ display: flex; align-items: center; gap: .4rem; max-width: 100%; min-width: 0; }}
.key {{ width: 14px; height: 14px; flex: none; }}
{" ".join(f".s{n} {{ stroke: var(--s{n}); }} .mark.s{n} {{ fill: var(--s{n}); }}" for n in range(len(_LIGHT)))}
.mark.again {{ fill: var(--paper); stroke-width: 1.4; }} .line.again {{ stroke-dasharray: 4 3; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: top; }}
th {{ border-bottom: 2px solid var(--strong); font-weight: 600; white-space: normal; vertical-align: bottom;
  overflow-wrap: break-word; }}
td.name, th.name {{ text-align: left; white-space: normal; min-width: 7rem; max-width: 22rem; }}
td small {{ display: block; color: var(--soft); }}
details {{ margin: 1rem 0; border-top: 1px solid var(--line); padding-top: .7rem; }}
summary {{ cursor: pointer; font-weight: 600; }}
dl {{ display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .15rem 1rem; font-size: .9rem; }}
dt {{ color: var(--soft); }} dd {{ margin: 0; min-width: 0; }}
@media (max-width: 40rem) {{ dl {{ grid-template-columns: 1fr; }} dd {{ margin-bottom: .5rem; }}
  body {{ padding: 1rem .8rem 3rem; }} }}
"""
