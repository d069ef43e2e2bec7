// The sensors of the task that is looked at: a list to search, and a map where their places are known.

import { byId, el, unit } from "./dom.js";
import { byDistrict, byLevel, map } from "./map.js";

const SHOWN = 200; // in the list at once
const PAGE = 8;

/** {about, channel, levels, choose}; levels: Map from channels to what is said of them, or null. */
let view = null;
let options = [];

export const targets = about => about.sensors.filter(c => c.role === "target");

/** Draw both. moved: bring the chosen one into sight. */
export function drawSensors(next, moved) {
  view = next;
  drawList(moved);
  drawMap();
}

export const clearSearch = () => (byId("find").value = "");

function drawList(moved) {
  const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const own = targets(view.about);
  const kinds = new Set(own.map(c => c.kind)).size > 1;
  const text = c => `${c.sensor} ${c.district ?? ""} ${c.kind}`.toLowerCase();
  const found = own.filter(c => words.every(word => text(c).includes(word)));
  options = found.slice(0, SHOWN);
  const list = byId("sensors");
  list.replaceChildren(...options.map((c, i) => option(c, i, kinds)));
  const row = list.children[options.indexOf(view.channel)];
  if (row) list.setAttribute("aria-activedescendant", row.id);
  else list.removeAttribute("aria-activedescendant");
  if (row && moved) {
    const above = row.offsetTop < list.scrollTop;
    const below = row.offsetTop + row.offsetHeight > list.scrollTop + list.clientHeight;
    if (above || below) list.scrollTop = row.offsetTop - list.clientHeight / 2;
  }
  const more = found.length > SHOWN ? `, the first ${SHOWN} shown: search for others` : "";
  byId("found").textContent = found.length ? `${found.length} of ${own.length}${more}` : "No sensor is called so.";
}

function option(c, i, kinds) {
  const told = { role: "option", id: `option-${i}`, "aria-selected": String(c === view.channel) };
  return el(
    "li",
    { ...told, click: () => view.choose(c) },
    el("span.name", c.sensor),
    el("span.place", [c.district, kinds && c.kind].filter(Boolean).join(" · ")),
    el("span.level", view.levels?.get(c)?.text ?? ""),
  );
}

function steer(event) {
  const here = options.indexOf(view?.channel), last = options.length - 1;
  const by = { ArrowDown: 1, ArrowUp: -1, PageDown: PAGE, PageUp: -PAGE, Home: -Infinity, End: Infinity }[event.key];
  if (by === undefined || last < 0) return;
  event.preventDefault();
  view.choose(options[Math.max(0, Math.min(last, here + by))], false);
}

function drawMap() {
  const { about, channel, levels, choose } = view;
  const placed = targets(about).filter(
    c => c.kind === channel.kind && Number.isFinite(c.latitude) && Number.isFinite(c.longitude),
  );
  byId("place").hidden = !placed.length;
  if (!placed.length) return;
  const plain = byId("colour").value === "district" || !levels;
  const { names, key } = plain ? byDistrict(placed) : byLevel(placed.map(c => levels.get(c)), unit(channel.unit));
  const text = c => [c.sensor, c.district, levels?.get(c)?.text].filter(Boolean).join(", ");
  map(byId("map"), placed.map((c, i) => ({ channel: c, name: names[i], text: text(c) })), channel, choose);
  byId("map-key").replaceChildren(...key);
}

byId("find").addEventListener("input", () => view && drawList(true));
byId("sensors").addEventListener("keydown", steer);
byId("colour").addEventListener("change", () => view && drawMap());
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width && view) drawMap();
  width = innerWidth;
});
