// Where the sensors stand, drawn to scale without any map below: nothing is loaded from elsewhere.

import { el, num, svg } from "./dom.js";

const EDGE = 22, NEAR = 24; // pixels left free around, and how far a click may miss
const MOST = 0.9, LEAST = 0.45; // of its width, its height
const DEGREE_KM = 111.32;
const SHADES = 5, GROUPS = 6; // colours there are, see page.css

/**
 * Draw `points` ({channel, name, text}, `name` a colour) into `box`; `choose(channel)` is called for the one clicked.
 *
 * The list of sensors says the same to those who cannot see or click this.
 */
export function map(box, points, chosen, choose) {
  const width = Math.max(200, box.clientWidth);
  const shrink = Math.cos((range(points.map(p => p.channel.latitude)).middle * Math.PI) / 180);
  const east = range(points.map(p => p.channel.longitude * shrink)), north = range(points.map(p => p.channel.latitude));
  const wanted = ((width - 2 * EDGE) * north.size) / east.size + 2 * EDGE;
  const height = Math.round(Math.min(MOST * width, Math.max(LEAST * width, wanted)));
  const scale = Math.min((width - 2 * EDGE) / east.size, (height - 2 * EDGE) / north.size);
  const at = ({ channel: c }) => ({
    x: Math.round(width / 2 + (c.longitude * shrink - east.middle) * scale),
    y: Math.round(height / 2 - (c.latitude - north.middle) * scale),
  });
  const ordered = [...points].sort((a, b) => (a.channel === chosen) - (b.channel === chosen));
  const click = event => {
    const { left, top } = box.getBoundingClientRect();
    const away = points.map(p => Math.hypot(at(p).x - event.clientX + left, at(p).y - event.clientY + top));
    const nearest = away.indexOf(Math.min(...away));
    if (away[nearest] <= NEAR) choose(points[nearest].channel);
  };
  const label = `Map of ${points.length} sensors; the list below has them too`;
  const size = { width, height, viewBox: `0 0 ${width} ${height}` };
  const dots = ordered.map(p => dot(p, at(p), p.channel === chosen));
  const told = { ...size, role: "img", "aria-label": label, click };
  box.replaceChildren(svg("svg", told, ...dots, ...bar(scale / DEGREE_KM, height)));
}

function range(values) {
  const low = Math.min(...values), high = Math.max(...values);
  return { middle: (low + high) / 2, size: high - low || 0.01 };
}

const dot = (p, { x, y }, chosen) =>
  svg(`circle.dot.${p.name}${chosen ? ".chosen" : ""}`, { cx: x, cy: y, r: chosen ? 8 : 5.5 }, svg("title", p.text));

/** A length on the ground; `scale`: pixels a km. */
function bar(scale, height) {
  const km = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100].find(length => length * scale >= 40);
  if (!km) return [];
  const y = height - 6;
  const long = Math.round(km * scale);
  return [svg("path.bar", { d: `M8 ${y - 4}v4h${long}v-4` }), svg("text", { x: 14 + long, y }, `${num(km)} km`)];
}

/** A colour's name for each level ({value} or {group, text}; undefined: not known), and the key that explains them. */
export function byLevel(levels, unit) {
  const values = levels.map(l => l?.value).filter(Number.isFinite);
  if (!values.length) return byGroup(levels.map(l => l?.group), new Map(levels.map(l => [l?.group, l?.text])));
  const low = Math.min(...values), size = (Math.max(...values) - low) / SHADES;
  const shade = v => Math.min(SHADES - 1, Math.floor((v - low) / size));
  const names = levels.map(l => (Number.isFinite(l?.value) ? `l${size ? shade(l.value) : 0}` : "none"));
  const bounds = i => (size ? `${num(low + i * size)} to ${num(low + (i + 1) * size)}` : num(low));
  const key = Array.from({ length: size ? SHADES : 1 }, (_, i) => entry(`l${i}`, bounds(i)));
  return { names, key: [...key, el("li", `${unit ? `${unit}, ` : ""}mean of the medians`)] };
}

export function byDistrict(channels) {
  const all = [...new Set(channels.map(c => c.district).filter(Boolean))].sort();
  return byGroup(channels.map(c => (c.district ? all.indexOf(c.district) : undefined)), new Map(all.entries()));
}

function byGroup(groups, texts) {
  const used = [...new Set(groups)].filter(Number.isInteger).sort((a, b) => a - b);
  const name = g => (Number.isInteger(g) ? `c${g % GROUPS}` : "none");
  return { names: groups.map(name), key: used.map(g => entry(name(g), texts.get(g))) };
}

function entry(name, text) {
  const spot = svg(`circle.dot.${name}`, { cx: 6, cy: 6, r: 5 });
  return el("li", svg("svg.spot", { viewBox: "0 0 12 12", "aria-hidden": "true" }, spot), text);
}
