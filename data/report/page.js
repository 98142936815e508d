'use strict';
// Draws the figures from the JSON in #data. No library, no request: the page must open from a file.
const data = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const SVG = 'http://www.w3.org/2000/svg';
const COLORS = 8, SHAPES = ['circle', 'square', 'diamond', 'triangle'];

// ---- numbers for people
const round = (v, digits = 3) => Number(v.toPrecision(digits)).toLocaleString('en', {maximumSignificantDigits: digits});
const scaled = (v, units, step = 1000) => {
  let i = 0;
  while (i + 1 < units.length && Math.abs(v) >= step) { v /= step; ++i; }
  return `${round(v)} ${units[i]}`;
};
const seconds = (v) => v == null ? '–' : v < 1e-3 ? `${round(v * 1e6)} µs` : v < 1 ? `${round(v * 1e3)} ms` : `${round(v)} s`;
const bytes = (v) => scaled(v, ['B', 'KiB', 'MiB', 'GiB', 'TiB'], 1024);
const rate = (v, unit) => scaled(v, ['', 'k', 'M', 'G', 'T', 'P'].map((p) => p + unit));
const count = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;
const percent = (v) => v == null ? '–' : `${round(v * 100)} %`;
const median = (list) => { const s = [...list].sort((a, b) => a - b); return s.length ? s[s.length >> 1] : null; };

const brief = (schedule) => typeof schedule === 'string' ? schedule
  : [schedule.family, ...Object.entries(schedule).filter(([k]) => k !== 'family').map(([k, v]) => `${k}=${v}`)].join(' ');
for (const c of data.choices) {
  c.brief = brief(c.schedule);
  for (const t of c.trials) t.brief = brief(t.schedule);
}

// ---- elements
function node(name, attributes = {}, parent = null, text = null) {
  const svg = ['svg', 'g', 'path', 'line', 'rect', 'circle', 'text', 'title', 'clipPath', 'defs'].includes(name);
  const e = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  if (text !== null) e.textContent = text;
  if (parent) parent.appendChild(e);
  return e;
}
function shape(kind, x, y, r, attributes, parent) {
  const d = kind === 'square' ? `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`
    : kind === 'diamond' ? `M${x},${y - 1.3 * r}l${1.3 * r},${1.3 * r}l${-1.3 * r},${1.3 * r}l${-1.3 * r},${-1.3 * r}z`
    : kind === 'triangle' ? `M${x},${y - 1.2 * r}l${1.2 * r},${2.1 * r}h${-2.4 * r}z`
    : `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`;
  return node('path', {d, ...attributes}, parent);
}
const tip = $('tip');
function explain(element, text) {
  element.setAttribute('tabindex', '0');
  element.setAttribute('role', 'img');
  element.setAttribute('aria-label', text.replace(/\n/g, ', '));
  const show = (x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16}px`;
  };
  element.addEventListener('pointerenter', (e) => show(e.clientX, e.clientY));
  element.addEventListener('pointerdown', (e) => show(e.clientX, e.clientY));
  element.addEventListener('focus', () => { const b = element.getBoundingClientRect(); show(b.right, b.top); });
  for (const gone of ['pointerleave', 'blur']) element.addEventListener(gone, () => { tip.hidden = true; });
}

// ---- charts: logarithmic axes unless said otherwise; one unit is one pixel, so that text keeps its size
const room = (figure) => Math.max(260, figure.clientWidth - 18);
const MARGIN = {left: 94, right: 18, top: 30, bottom: 42};
function ticks(low, high, log, base) {
  const list = [];
  if (!log) {
    const step = [0.1, 0.2, 0.25, 0.5].find((s) => (high - low) / s <= 6) || 1;
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) list.push(v);
    return list;
  }
  if (base === 10 && high / low < 1000) {
    for (let i = Math.floor(Math.log10(low)); 10 ** i <= high; ++i)
      for (const m of high / low < 30 ? [1, 2, 5] : [1, 3]) if (m * 10 ** i >= low && m * 10 ** i <= high) list.push(m * 10 ** i);
    return list;
  }
  const from = Math.floor(Math.log(low) / Math.log(base) + 1e-9), to = Math.ceil(Math.log(high) / Math.log(base) - 1e-9);
  const every = Math.max(1, Math.ceil((to - from) / 8));
  for (let i = from; i <= to; ++i) {
    const v = base ** i;
    if (v >= low * 0.999 && v <= high * 1.001 && (i - from) % every === 0) list.push(v);
  }
  return list;
}
function chart(figure, {title, x, y, height = 380}) {
  const width = room(figure);
  figure.textContent = '';
  const svg = node('svg', {viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': title}, figure);
  const inner = {x0: MARGIN.left, x1: width - MARGIN.right, y0: height - MARGIN.bottom, y1: MARGIN.top};
  const scale = (axis, from, to) => (v) => {
    const f = axis.linear ? (t) => t : Math.log;
    return from + (f(v) - f(axis.low)) / (f(axis.high) - f(axis.low) || 1) * (to - from);
  };
  const sx = scale(x, inner.x0, inner.x1), sy = scale(y, inner.y0, inner.y1);
  node('text', {x: inner.x0, y: 18, class: 'title'}, svg, title);
  for (const v of ticks(x.low, x.high, !x.linear, x.base || 10)) {
    node('line', {x1: sx(v), x2: sx(v), y1: inner.y0, y2: inner.y1, class: 'grid'}, svg);
    node('text', {x: sx(v), y: inner.y0 + 17, 'text-anchor': 'middle'}, svg, x.text(v));
  }
  for (const v of ticks(y.low, y.high, !y.linear, y.base || 10)) {
    node('line', {x1: inner.x0, x2: inner.x1, y1: sy(v), y2: sy(v), class: 'grid'}, svg);
    node('text', {x: inner.x0 - 6, y: sy(v) + 4, 'text-anchor': 'end'}, svg, y.text(v));
  }
  node('text', {x: (inner.x0 + inner.x1) / 2, y: height - 6, 'text-anchor': 'middle'}, svg, x.name);
  const clip = node('clipPath', {id: `clip-${figure.id}`}, node('defs', {}, svg));
  node('rect', {x: inner.x0 - 8, y: inner.y1 - 8, width: inner.x1 - inner.x0 + 16, height: inner.y0 - inner.y1 + 16}, clip);
  return {svg, sx, sy, plot: node('g', {'clip-path': `url(#clip-${figure.id})`}, svg)};
}
const range = (values, pad = 1.6) => {
  const good = values.filter((v) => v > 0 && isFinite(v));
  return good.length ? {low: Math.min(...good) / pad, high: Math.max(...good) * pad} : {low: 1, high: 10};
};
const line = (points) => points.map(([x, y], i) => `${i ? 'L' : 'M'}${x.toFixed(1)},${y.toFixed(1)}`).join('');
function nothing(figure, text) { figure.textContent = ''; node('p', {class: 'lead'}, figure, text); }

// ---- what is selected
const layerNames = [...new Set(data.choices.map((c) => c.layer))];
const styleOf = (layer) => {
  const i = layerNames.indexOf(layer);
  return {color: `var(--s${i % COLORS})`, shape: SHAPES[Math.floor(i / COLORS) % SHAPES.length]};
};
function legend(figure, layers, extra = []) {
  const list = node('ul', {class: 'legend'}, figure);
  for (const layer of layers) {
    const item = node('li', {}, list), svg = node('svg', {viewBox: '0 0 14 14', 'aria-hidden': 'true'}, item), s = styleOf(layer);
    shape(s.shape, 7, 7, 5, {fill: s.color}, svg);
    item.appendChild(document.createTextNode(layer));
  }
  for (const text of extra) node('li', {}, list, text);
}
function option(select, value, text) { node('option', {value}, select, text); }
data.devices.forEach((d, i) => option($('device'), i, d.name));
const counts = data.devices.map((_, i) => data.choices.filter((c) => c.device === i).length);
$('device').value = String(Math.max(0, counts.indexOf(Math.max(0, ...counts))));
const shown = () => data.choices.filter((c) => c.device === Number($('device').value) && c.routing === $('routing').value && c.median_s);
const about = (c) => `${c.layer}, ${c.tokens} tokens\n${c.brief}\n${seconds(c.median_s)}, limit ${seconds(c.floor_s)}, ${percent(c.share)} of it\n` +
  `${rate(c.bytes / c.median_s, 'B/s')}, ${rate(c.flops / c.median_s, 'FLOP/s')}`;

function drawTiles(list) {
  $('tiles').textContent = '';
  const device = data.devices[Number($('device').value)] || {};
  const shares = list.map((c) => c.share).filter(Boolean);
  const mean = shares.length ? Math.exp(shares.reduce((s, v) => s + Math.log(v), 0) / shares.length) : null;
  const gains = list.map((c) => c.versus_default).filter(Boolean);
  const facts = [
    [list.length, `tuned buckets of ${new Set(list.map((c) => c.layer)).size} layers`],
    [percent(mean), 'of the limit, geometric mean'],
    [gains.length ? `${round(median(gains))}×` : '–', 'the speed of the default schedule, median'],
    [device.read_bytes_per_s ? rate(device.read_bytes_per_s, 'B/s') : '–', 'read, measured'],
    [device.dot_flops_per_s ? rate(device.dot_flops_per_s, 'FLOP/s') : '–', 'arithmetic, measured'],
  ];
  for (const [value, text] of facts) {
    const tile = node('div', {class: 'tile'}, $('tiles'));
    node('b', {}, tile, String(value));
    node('span', {}, tile, text);
  }
}
function drawRoofline(list) {
  const device = data.devices[Number($('device').value)] || {};
  const read = device.read_bytes_per_s, dot = device.dot_flops_per_s;
  const points = list.filter((c) => c.flops > 0 && c.bytes > 0);
  if (!points.length) return nothing($('roofline'), 'No tuned bucket here.');
  const xs = range(points.map((c) => c.flops / c.bytes).concat(read && dot ? [dot / read] : []), 2);
  const ys = range(points.map((c) => c.flops / c.median_s).concat(read && dot ? [dot, Math.min(dot, xs.low * read)] : []), 1.7);
  const {plot, sx, sy} = chart($('roofline'), {
    title: 'Operations per second over operations per byte',
    x: {...xs, name: 'FLOP per byte that must move', text: (v) => round(v)},
    y: {...ys, text: (v) => rate(v, 'FLOP/s')},
  });
  if (read && dot) node('path', {class: 'roof', d: line([[sx(xs.low), sy(xs.low * read)], [sx(dot / read), sy(dot)], [sx(xs.high), sy(dot)]])}, plot);
  for (const c of points) {
    const s = styleOf(c.layer);
    explain(shape(s.shape, sx(c.flops / c.bytes), sy(c.flops / c.median_s), 5.5, {class: 'dot', fill: s.color}, plot), about(c));
  }
  legend($('roofline'), [...new Set(points.map((c) => c.layer))], read && dot ? ['line: read rate, then arithmetic rate'] : []);
}
function drawCurves(list, id, value, settings, floor) {
  if (!list.length) return nothing($(id), 'No tuned bucket here.');
  const xs = range(list.map((c) => c.tokens), 1.3);
  const {plot, sx, sy} = chart($(id), {x: {...xs, base: 2, name: 'tokens', text: (v) => round(v, 4)}, ...settings});
  const layers = [...new Set(list.map((c) => c.layer))];
  for (const layer of layers) {
    const own = list.filter((c) => c.layer === layer && value(c) > 0).sort((a, b) => a.tokens - b.tokens), s = styleOf(layer);
    if (floor) node('path', {class: 'floor', d: line(own.filter((c) => c.floor_s > 0).map((c) => [sx(c.tokens), sy(c.floor_s)]))}, plot);
    node('path', {d: line(own.map((c) => [sx(c.tokens), sy(value(c))])), fill: 'none', stroke: s.color, 'stroke-width': 2}, plot);
    for (const c of own) explain(shape(s.shape, sx(c.tokens), sy(value(c)), 4.5, {class: 'dot', fill: s.color}, plot), about(c));
  }
  legend($(id), layers, floor ? ['dashed: limit'] : []);
}
function drawModel(list) {
  const points = list.flatMap((c) => c.trials.filter((t) => t.status === 'ok' && t.median_s && t.predicted_s).map((t) => ({c, t})));
  if (!points.length) return nothing($('model'), 'No measured schedule here.');
  const r = range(points.flatMap(({t}) => [t.median_s, t.predicted_s]), 1.3);
  const {plot, sx, sy} = chart($('model'), {title: 'Predicted time over measured time', x: {...r, name: 'measured', text: seconds}, y: {...r, text: seconds}});
  const edge = (f) => [[sx(r.low), sy(r.low * f)], [sx(r.high), sy(r.high * f)]];
  node('path', {class: 'band', d: line([...edge(1.15), ...edge(1 / 1.15).reverse()]) + 'z'}, plot);
  node('path', {class: 'floor', d: line(edge(1))}, plot);
  for (const {c, t} of points) {
    const s = styleOf(c.layer);
    explain(shape(s.shape, sx(t.median_s), sy(t.predicted_s), 4, {class: 'dot', fill: s.color}, plot),
      `${c.layer}, ${c.tokens} tokens\n${t.brief}\nmeasured ${seconds(t.median_s)}, predicted ${seconds(t.predicted_s)}`);
  }
  const error = median(points.map(({t}) => Math.abs(t.predicted_s / t.median_s - 1)));
  legend($('model'), [...new Set(points.map(({c}) => c.layer))], [`median error ${percent(error)} of ${points.length} schedules`]);
}
function drawSearch() {
  const figure = $('search'), c = shown()[Number($('bucket').value)];
  if (!c || !c.trials.length) return nothing(figure, 'No measurement of this bucket is in the cache.');
  const good = c.trials.filter((t) => t.median_s), failed = c.trials.filter((t) => !t.median_s);
  figure.textContent = '';
  const row = 36, height = 40 + row * good.length + 24, width = room(figure);
  const svg = node('svg', {viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': 'Measured schedules'}, figure);
  const high = Math.max(...good.map((t) => Math.max(t.median_s, t.predicted_s || 0)), c.floor_s || 0) * 1.02;
  const x0 = 8, x1 = width - 90, sx = (v) => x0 + v / high * (x1 - x0);
  node('text', {x: x0, y: 18, class: 'title'}, svg, `${c.layer}, ${c.tokens} tokens: ${good.length} schedules measured`);
  good.forEach((t, i) => {
    const y = 34 + i * row, chosen = t.brief === c.brief;
    node('text', {x: x0, y: y + 10, style: `font-size:11px${chosen ? ';fill:var(--ink);font-weight:600' : ''}`}, svg, (chosen ? '✓ ' : '') + t.brief);
    const bar = node('rect', {x: x0, y: y + 15, width: Math.max(1, sx(t.median_s) - x0), height: 13, rx: 2,
      fill: chosen ? 'var(--s0)' : 'var(--soft)', class: 'dot'}, svg);
    explain(bar, `${t.brief}\nmeasured ${seconds(t.median_s)}, predicted ${seconds(t.predicted_s)}\n${t.stage}${chosen ? ', chosen' : ''}${t.note ? `\n${t.note}` : ''}`);
    if (t.predicted_s) node('line', {x1: sx(t.predicted_s), x2: sx(t.predicted_s), y1: y + 13, y2: y + 30, stroke: 'var(--s1)', 'stroke-width': 3}, svg);
    node('text', {x: x1 + 8, y: y + 26}, svg, seconds(t.median_s));
  });
  if (c.floor_s) {
    node('line', {x1: sx(c.floor_s), x2: sx(c.floor_s), y1: 30, y2: height - 22, class: 'floor'}, svg);
    node('text', {x: sx(c.floor_s), y: height - 8, 'text-anchor': 'middle'}, svg, 'limit');
  }
  const list = node('ul', {class: 'legend'}, figure);
  for (const text of ['blue bar, ✓: chosen', 'orange mark: predicted', 'dashed: limit']) node('li', {}, list, text);
  for (const t of failed) node('p', {class: 'lead'}, figure, `${t.brief}: ${t.status}${t.note ? `, ${t.note}` : ''}`);
}
function table(parent, caption, heads, rows) {
  const t = node('table', {}, parent);
  if (caption) node('caption', {}, t, caption);
  const head = node('tr', {}, node('thead', {}, t));
  heads.forEach(([text, number]) => node('th', number ? {class: 'n', scope: 'col'} : {scope: 'col'}, head, text));
  const body = node('tbody', {}, t);
  for (const cells of rows) {
    const r = node('tr', {}, body);
    cells.forEach((text, i) => node('td', heads[i][1] ? {class: 'n'} : {}, r, String(text)));
  }
}
function drawTables(list) {
  $('table').textContent = '';
  table($('table'), '', [['layer'], ['tokens', 1], ['schedule'], ['time', 1], ['predicted', 1], ['limit', 1], ['of limit', 1], ['measured', 1], ['how'], ['served']],
    list.map((c) => [c.layer, c.tokens, c.brief, seconds(c.median_s), seconds(c.predicted_s), seconds(c.floor_s), percent(c.share), c.candidates, c.how, c.served ? 'yes' : '']));
}
function drawInventory() {
  const i = data.inventory, parent = $('inventory');
  parent.textContent = '';
  table(parent, `${data.path}: ${bytes(i.file_bytes)}; ${i.choices} choices (${i.pinned} pinned, ${i.imported} imported), ${i.measurements} measurements of ${i.sessions} sessions, ` +
    `${i.kernels} kernels, ${i.binaries} of them with their binary`,
    [['by'], ['name'], ['kernels', 1], ['binaries', 1], ['size', 1]],
    [...i.by_arch.map((r) => ['architecture', r]), ...i.by_compiler.map((r) => ['compiler', r])]
      .map(([by, r]) => [by, r.name || '–', r.kernels, r.binaries, bytes(r.bytes)]));
}
function draw() {
  const list = shown();
  $('empty').hidden = list.length > 0;
  $('empty').textContent = 'Nothing was tuned for this device and routing yet: moejit tune --model NAME fills the page.';
  drawTiles(list);
  drawRoofline(list);
  drawCurves(list, 'time', (c) => c.median_s, {title: 'Time', y: {...range(list.flatMap((c) => [c.median_s, c.floor_s || c.median_s]), 1.4), text: seconds}}, true);
  drawCurves(list, 'share', (c) => c.share, {title: 'Share of the limit', y: {linear: true, low: 0, high: Math.max(1, ...list.map((c) => c.share || 0)), text: percent}}, false);
  drawModel(list);
  $('bucket').textContent = '';
  list.forEach((c, i) => option($('bucket'), i, `${c.layer}, ${c.tokens} tokens`));
  drawSearch();
  drawTables(list);
}
function routings() {
  const names = [...new Set(data.choices.filter((c) => c.device === Number($('device').value)).map((c) => c.routing))];
  $('routing').textContent = '';
  for (const name of names) option($('routing'), name, name);
  draw();
}
$('about').textContent = `moejit ${data.version}: ${count(data.choices.length, 'choice')} for ${count(layerNames.length, 'layer')} on ${count(data.devices.length, 'device')}, from ${data.path}`;
$('device').addEventListener('change', routings);
$('routing').addEventListener('change', draw);
$('bucket').addEventListener('change', drawSearch);
let lastWidth = innerWidth;
addEventListener('resize', () => {
  if (innerWidth === lastWidth) return;
  lastWidth = innerWidth;
  const bucket = $('bucket').value;
  draw();
  $('bucket').value = bucket;
  drawSearch();
});
routings();
drawInventory();
document.body.dataset.drawn = 'yes';
