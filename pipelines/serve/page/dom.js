// Elements, and numbers and times as people read them. Text of others only ever becomes text nodes.

const SVG = "http://www.w3.org/2000/svg";

/** `tag`: a name and classes, p.hint. Attributes may be left out; a function among them listens to that event. */
function put(make, tag, attributes, ...children) {
  if (attributes?.constructor !== Object) return put(make, tag, {}, attributes, ...children);
  const [name, ...classes] = tag.split(".");
  const node = make(name);
  if (classes.length) node.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value != null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter(child => child != null && child !== false));
  return node;
}

export const el = (...told) => put(name => document.createElement(name), ...told);
export const svg = (...told) => put(name => document.createElementNS(SVG, name), ...told);
export const byId = id => document.getElementById(id);

const formats = new Map();

/** Three digits and no fewer than stand before the point, a true minus; a dash for what is no number. */
export function num(value, digits = Math.abs(value) < 100 ? 3 : String(Math.round(Math.abs(value))).length) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (!formats.has(digits))
    formats.set(digits, new Intl.NumberFormat("en", { maximumSignificantDigits: Math.min(digits, 21) }));
  return formats.get(digits).format(value).replace("-", "−");
}

export const percent = share => `${num(100 * share)} %`;

/** A unit as it is written by hand: ug/m3 → µg/m³. */
export const unit = (text = "") =>
  text.replace(/^ug\b/, "µg").replace(/^deg([CF])$/, "°$1").replace(/m2\b/, "m²").replace(/m3\b/, "m³");

export const short = digest => (digest ?? "").slice(0, 12);

const clocks = new Map();

function clock(zone, options) {
  const name = `${zone} ${JSON.stringify(options)}`;
  if (!clocks.has(name))
    clocks.set(name, new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", ...options }));
  return clocks.get(name);
}

const HOUR = { hour: "2-digit", minute: "2-digit" };
const DAY = { weekday: "short", day: "numeric", month: "short" };
export const hour = (ms, zone) => clock(zone, HOUR).format(ms);
export const day = (ms, zone) => clock(zone, DAY).format(ms);
export const date = (ms, zone) => clock(zone, { ...DAY, year: "numeric" }).format(ms);
export const moment = (ms, zone) => clock(zone, { ...DAY, year: "numeric", ...HOUR }).format(ms);

/** How far the zone's clock is ahead of UTC then, ms. */
export function offset(ms, zone) {
  const all = { year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric" };
  const part = Object.fromEntries(clock(zone, all).formatToParts(ms).map(p => [p.type, Number(p.value)]));
  return Date.UTC(part.year, part.month - 1, part.day, part.hour, part.minute) - Math.floor(ms / 60000) * 60000;
}

/** ISO local time with its distance from UTC: what the server reads without doubt, and people can edit. */
export function iso(ms, zone) {
  const ahead = offset(ms, zone);
  const text = new Date(ms + ahead).toISOString().slice(0, 16);
  const minutes = Math.abs(ahead) / 60000;
  const two = n => String(Math.floor(n)).padStart(2, "0");
  return `${text}${ahead < 0 ? "-" : "+"}${two(minutes / 60)}:${two(minutes % 60)}`;
}

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** A length of time, seconds: 300 → 5 min. */
export function span(seconds) {
  const size = Math.abs(seconds);
  const [length, name] = UNITS.find(([s]) => size >= s && size % s === 0) ?? UNITS.find(([s]) => size >= s) ?? [1, "s"];
  return `${num(seconds / length)} ${name}`;
}

export function ago(seconds) {
  if (seconds < 0) return `in ${roughly(-seconds)}`;
  return seconds < 5 ? "just now" : `${roughly(seconds)} ago`;
}

function roughly(seconds) {
  const [length, name] = seconds >= 172800 ? [86400, "days"] : (UNITS.find(([s]) => seconds >= s) ?? [1, "s"]);
  return `${Math.floor(seconds / length)} ${name}`;
}
