"""How the report looks, on a light and on a dark page."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1c2430; --soft: #667085; --line: #e3e6eb;
  --kept: #2f7fd1; --dropped: #f0a35e; --failed: #cf4b4b; --hours: #17806d; --bound: #1c2430; }
@media (prefers-color-scheme: dark) { :root { --page: #12151a; --card: #1b2028; --ink: #e6e9ee; --soft: #98a2b3; --line: #2c333e;
  --kept: #5aa2ea; --dropped: #d9884a; --failed: #e06c6c; --hours: #4fc3ac; --bound: #e6e9ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 18px; } h2 { font-size: 18px; margin: 0 0 6px; } h3 { font-size: 14px; margin: 22px 0 8px; }
p { color: var(--soft); margin: 0 0 14px; max-width: 78ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 20px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
dl { display: grid; gap: 2px; margin: 18px 0 0; font-size: 13px; }
dl div { display: flex; gap: 10px; } dt { color: var(--soft); min-width: 92px; } dd { margin: 0; overflow-wrap: anywhere; }
code { white-space: nowrap; }
.legend { display: flex; gap: 18px; font-size: 13px; } .legend i { display: inline-block; width: 12px; height: 12px;
  border-radius: 3px; margin-right: 6px; vertical-align: -1px; }
i.kept { background: var(--kept); } i.dropped { background: var(--dropped); } i.failed { background: var(--failed); }
svg { width: 100%; height: auto; display: block; font-size: 13px; }
.wide { overflow-x: auto; } .wide svg { min-width: 640px; }
rect.kept { fill: var(--kept); } rect.dropped { fill: var(--dropped); } rect.failed { fill: var(--failed); }
text { fill: var(--ink); } text.small { fill: var(--soft); font-size: 12px; } text.bound { fill: var(--bound); font-size: 12px;
  font-weight: 600; }
.axis { stroke: var(--line); } .threshold { stroke: var(--bound); stroke-dasharray: 4 3; stroke-width: 1.4; }
.hours { fill: none; stroke: var(--hours); stroke-width: 1.8; }
table { border-collapse: collapse; width: 100%; margin-top: 20px; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 500; font-size: 12px; }
th, td { padding: 6px 10px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td small { color: var(--soft); margin-left: 8px; }
.why { padding-left: 28px; } th.n { text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 22px 28px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); }
.charts figcaption { color: var(--ink); font-weight: 600; }
.groups { display: flex; flex-wrap: wrap; gap: 6px 30px; }
.gallery { display: flex; flex-wrap: wrap; gap: 14px; } .gallery figure { width: 148px; }
.gallery img, .gallery .none { width: 100%; height: 104px; object-fit: contain; border-radius: 8px; background: var(--page); }
.gallery .none { display: grid; place-items: center; color: var(--soft); font-size: 12px; }
.gallery figcaption { overflow-wrap: anywhere; font-size: 12px; margin-top: 4px; }
.gallery b { color: var(--ink); font-weight: 600; }
"""
