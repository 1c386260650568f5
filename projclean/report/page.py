"""One self-contained HTML page: no network, no script, light and dark, as narrow as a phone."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #ffffff; --card: #f4f6f8;
  --grid: #c9d1d9; --c1: #0b62a8; --c2: #b34700; --c3: #00704f; --c4: #8a3b86; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #a3adb8; --paper: #0f141a; --card: #1a212a;
  --grid: #3d4753; --c1: #6cb6f5; --c2: #ff9d5c; --c3: #4fd3a6; --c4: #e39ae0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; padding-top: .6rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p, dl { margin: .5rem 0; max-width: 50rem; }
.soft { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem .8rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: .5rem 0; padding: .6rem; background: var(--card); border-radius: .4rem; min-width: 0; }
figcaption { font-size: .9rem; color: var(--soft); }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; margin: .6rem 0; }
.scroll:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .2rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; }
th.text, td.text { text-align: left; }
td.long, th.long { text-align: left; }
.reading th, .reading td { white-space: normal; padding-right: .5rem; }
.reading td.long { min-width: 7rem; }
.heat { font-size: .8rem; }
.heat td, .heat th { padding: .25rem .3rem; text-align: center; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
summary:focus-visible { outline: 2px solid var(--c1); }
@media print { body { max-width: none; } figure { break-inside: avoid; } }
""".strip()


def page(title: str, body: str) -> str:
    """A page around a body of HTML. Colours are the custom properties --ink, --soft, --grid and --c1 to --c4."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
{body}
</body>
</html>"""
