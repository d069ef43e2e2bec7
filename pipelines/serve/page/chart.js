// An answer over time as SVG: panes one below the other on one axis of time, a key, a sentence, all numbers.

import { date, day, el, hour, num, offset, percent, svg } from "./dom.js";
import { scores, shares, values } from "./marks.js";
import { sentence, when } from "./series.js";

const RIGHT = 12, TOP = 26, GAP = 38, BOTTOM = 40;
const HOUR = 3600000, DAY = 24 * HOUR;
const STEPS = [1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160, 40320].map(m => m * 60000);
const SHARES = { low: 0, high: 1, at: [0, 0.25, 0.5, 0.75, 1], text: v => num(100 * v) };
const HEADS = { "q0.1": "10 %", "q0.5": "median", "q0.9": "90 %" };

/** Draw into `box`, as wide as it is, and again when that changes. */
export function chart(box, s) {
  const readout = el("p.readout", { "aria-hidden": "true" });
  const holder = el("div.plot");
  box.append(el("figure", legend(s), holder, readout, el("figcaption", sentence(s))));
  let width = 0;
  const watch = new ResizeObserver(() => {
    if (!holder.isConnected) return watch.disconnect();
    if (holder.clientWidth === width || !holder.clientWidth) return;
    width = holder.clientWidth;
    holder.replaceChildren(picture(s, width, readout));
  });
  watch.observe(holder);
}

function legend(s) {
  const item = (mark, text) => el("li", svg("svg.swatch", { viewBox: "0 0 20 12", "aria-hidden": "true" }, mark), text);
  const line = (name, text) => item(svg(`path.${name}`, { d: "M1 6H19" }), text);
  const block = (name, text) => item(svg(`rect.${name}`, { x: 1, y: 1, width: 18, height: 10 }), text);
  return el(
    "ul.key",
    s.read.length > 0 && line("read", "readings"),
    s.quantiles && line("median", s.alarm ? "expected (median)" : "median"),
    s.quantiles && block("band", "80 % interval"),
    ...(s.classes ?? []).map(({ name }, i) => block(`c${i % 6}`, name)),
    s.alarm?.some(Boolean) && block("alarm", "alarm"),
  );
}

function picture(s, width, readout) {
  const read = recent(s);
  const panes = [];
  const known = [...read.map(p => p.y), ...(s.quantiles?.low ?? []), ...(s.quantiles?.high ?? [])];
  if (known.length) panes.push({ draw: values, height: 210, title: named(s), ticks: ticks(known, 5) });
  if (s.classes) panes.push({ draw: shares, height: 130, title: "probability, %", ticks: SHARES });
  if (s.score) panes.push({ draw: scores, height: 70, title: "score", ticks: ticks([0, 0.1, ...s.score], 3) });
  const longest = Math.max(...panes.flatMap(pane => pane.ticks.at.map(v => pane.ticks.text(v).length)));
  const across = time(s, read, 12 + 7.2 * longest, width - RIGHT);
  const bottom = panes.reduce((sum, pane) => sum + pane.height + GAP, TOP - GAP);
  const size = { width, height: bottom + BOTTOM, viewBox: `0 0 ${width} ${bottom + BOTTOM}` };
  const root = svg("svg", { ...size, role: "img", "aria-label": sentence(s) });
  let top = TOP;
  for (const { draw, height, title, ticks: at } of panes) {
    const y = v => fixed(top + height * (1 - (v - at.low) / (at.high - at.low)));
    const pane = { s, read, x: across.to, y, top, height, step: across.step };
    root.append(axis(at, title, y, top, across), svg(`g.${draw.name}`, ...draw(pane)));
    top += height + GAP;
  }
  root.append(times(s, across, bottom));
  if (read.length && read.at(-1).x < s.x[0])
    root.append(svg("path.now", { d: `M${across.to(s.x[0] - s.step / 2)} ${TOP}V${bottom}` }));
  root.append(pointer(s, read, across, bottom, readout));
  return root;
}

const fixed = v => Math.round(v * 100) / 100;
const named = s => [s.kind, s.unit].filter(Boolean).join(", ");

/** Readings from not too long before what is asked, or that would have no room. */
function recent(s) {
  const from = s.x[0] - (s.alarm ? 1 : 3) * s.x.length * s.step;
  return s.read.filter(p => p.x >= from);
}

/** Round numbers, about `count`, that hold `numbers`. */
function ticks(numbers, count) {
  const known = numbers.filter(Number.isFinite);
  let low = Math.min(...known), high = Math.max(...known);
  if (!(high > low)) [low, high] = known.length ? [low - 1, low + 1] : [0, 1];
  const power = 10 ** Math.floor(Math.log10((high - low) / count));
  const step = [1, 2, 5, 10].find(m => m * power * count >= high - low) * power;
  const first = Math.floor(low / step), last = Math.ceil(high / step);
  const at = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { low: at[0], high: at.at(-1), at, text: v => num(v, 6) };
}

/** ms to pixels and back; step: a step's width. */
function time(s, read, left, right) {
  const low = Math.min(s.x[0], read[0]?.x ?? Infinity) - s.step / 2;
  const high = Math.max(s.x.at(-1), read.at(-1)?.x ?? -Infinity) + s.step / 2;
  const per = (right - left) / (high - low);
  const to = t => fixed(left + (t - low) * per), from = px => low + (px - left) / per;
  return { low, high, left, right, to, from, step: s.step * per };
}

function axis(at, title, y, top, { left, right }) {
  const lines = at.at.map(v => svg("path", { d: `M${left} ${y(v)}H${right}` }));
  const place = v => ({ x: left - 6, y: y(v) + 4, "text-anchor": "end", "data-y": y(v) });
  const texts = at.at.map(v => svg("text.y", place(v), at.text(v)));
  return svg("g.axis", svg("text.title", { x: 2, y: top - 12 }, title), ...lines, ...texts);
}

function times(s, across, bottom) {
  const most = Math.max(2, Math.floor((across.right - across.left) / 64));
  const step = STEPS.find(t => (across.high - across.low) / t <= most) ?? STEPS.at(-1);
  const each = Math.min(step, HOUR); // the local clock may go on or back at any hour
  const marks = [];
  for (let at = Math.ceil(across.low / each) * each; at <= across.high; at += each) {
    const local = s.timed ? at + offset(at, s.zone) : at;
    if (local % step) continue;
    const text = !s.timed ? when(s, at) : local % DAY ? hour(at, s.zone) : day(at, s.zone);
    const x = across.to(at);
    const place = { x, y: bottom + 19, "text-anchor": x > across.right - 20 ? "end" : "middle" };
    marks.push(svg("path", { d: `M${x} ${bottom}v5` }), svg("text", place, text));
  }
  const what = s.timed ? `local time, ${s.zone}` : "time from the last reading";
  const title = (x, anchor, text) => svg("text.title", { x, y: bottom + 36, "text-anchor": anchor }, text);
  const begins = s.timed && title(2, "start", date(across.low + s.step / 2, s.zone));
  return svg("g.axis", ...marks, begins, title(across.right, "end", what));
}

/** Says in `readout` what stands under the pointer. */
function pointer(s, read, across, bottom, readout) {
  const told = new Map(read.map(p => [p.x, { read: p.y }]));
  s.x.forEach((t, i) => told.set(t, { ...told.get(t), step: i }));
  const known = [...told.keys()];
  const line = svg("path.pointer");
  const move = event => {
    const at = across.from(event.clientX - line.ownerSVGElement.getBoundingClientRect().left);
    const near = known.reduce((best, t) => (Math.abs(t - at) < Math.abs(best - at) ? t : best));
    line.setAttribute("d", `M${across.to(near)} ${TOP}V${bottom}`);
    readout.textContent = `${when(s, near)}: ${said(s, told.get(near))}`;
  };
  const leave = () => {
    line.removeAttribute("d");
    readout.textContent = "";
  };
  const where = { x: across.left, y: 0, width: Math.max(0, across.right - across.left), height: bottom };
  return svg("g", line, svg("rect.area", { ...where, pointermove: move, pointerdown: move, pointerleave: leave }));
}

function figure(s, v) {
  if (typeof v === "number") return s.classes ? percent(v) : num(v, 5);
  return { true: "yes", false: "no" }[v] ?? v ?? "–";
}

function said(s, { read, step }) {
  const out = read === undefined ? [] : [`read ${num(read, 5)}`];
  const told = ([name, each]) => `${HEADS[name] ?? name} ${figure(s, each[step])}`;
  if (step !== undefined) out.push(...s.columns.map(told));
  return out.join(", ");
}

/** All numbers of an answer, a row a step. */
export function numbers(s) {
  const cells = i => s.columns.map(([, each]) => el("td.number", figure(s, each[i])));
  const heads = s.columns.map(([name]) => el("th.number", { scope: "col" }, HEADS[name] ?? name));
  const table = el(
    "table",
    el("caption", `${s.classes ? s.kind : named(s)} at ${s.sensor}`),
    el("thead", el("tr", el("th", { scope: "col" }, "time"), ...heads)),
    el("tbody", ...s.x.map((t, i) => el("tr", el("th", { scope: "row" }, when(s, t)), ...cells(i)))),
  );
  const scroll = el("div.scroll", { tabindex: 0, role: "region", "aria-label": "All numbers" }, table);
  return el("details.numbers", el("summary", "All numbers"), scroll);
}
