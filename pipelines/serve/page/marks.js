// What is drawn into a pane of a chart: readings, median and interval, shares of classes, scores, alarms.
//
// A pane is {s, read, x, y, top, height, step}: the series and the readings to show, ms and values to pixels, and how
// many pixels a step is wide.

import { svg } from "./dom.js";

const fixed = v => Math.round(v * 100) / 100;

/** A path through points, broken where one is missing; one alone is a dot. */
function line(name, xs, ys, { x, y }) {
  let pen = "M";
  const parts = xs.map((t, i) => {
    const known = Number.isFinite(ys[i]);
    const part = known ? `${pen}${x(t)} ${y(ys[i])}${pen === "M" ? "h.01" : ""}` : "";
    pen = known ? "L" : "M";
    return part;
  });
  return svg(`path.${name}`, { d: parts.join("") });
}

export function values(pane) {
  const { s, read, x, y } = pane;
  const out = alarms(pane);
  if (s.quantiles) {
    const { low, middle, high } = s.quantiles;
    const known = [...s.x.keys()].filter(i => Number.isFinite(low[i]) && Number.isFinite(high[i]));
    const edge = each => known.map(i => `${x(s.x[i])} ${y(each[i])}`);
    out.push(svg("path.band", { d: `M${[...edge(high), ...edge(low).reverse()].join("L")}Z` }));
    out.push(line("median", s.x, middle, pane));
  }
  if (read.length) out.push(line("read", read.map(p => p.x), read.map(p => p.y), pane));
  return out;
}

function alarms({ s, x, top, height, step }) {
  const at = s.x.filter((_, i) => s.alarm?.[i]);
  return at.map(t => svg("rect.alarm", { x: fixed(x(t) - step / 2), y: top, width: fixed(step), height }));
}

export function shares({ s, x, y, step }) {
  return s.x.flatMap((t, i) => {
    let below = 0;
    return s.classes.map(({ shares: each }, c) => {
      const base = y(below), up = y((below += each[i]));
      const place = { x: fixed(x(t) - 0.45 * step), width: fixed(0.9 * step), y: up, height: fixed(base - up) };
      return svg(`rect.c${c % 6}`, place);
    });
  });
}

export const scores = pane => [...alarms(pane), line("score", pane.s.x, pane.s.score, pane)];
