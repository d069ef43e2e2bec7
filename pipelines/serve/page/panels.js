// What is shown of a channel and its task: the latest forecast, a form to try, the release's card.

import { ask } from "./api.js";
import { chart, numbers } from "./chart.js";
import { ago, el, moment, short, unit } from "./dom.js";
import { markdown } from "./markdown.js";
import { series } from "./series.js";

/** Where the server has what `about` tells of, or the part of it that `rest` names. */
export const path = (about, ...rest) => ["v1/tasks", encodeURIComponent(about.task), ...rest].join("/");
export const pathOf = channel => `forecast?sensor=${encodeURIComponent(channel.sensor)}`;

export const latest = (about, channel, signal) => ask(path(about, pathOf(channel)), { signal });

export function forecast(told, channel, about) {
  const out = el("div", title(channel), el("p.of", { "data-of": told.of }, whence(told, about)));
  draw(out, told, channel, about);
  return out;
}

export async function card(about, signal) {
  return el("article.card", markdown(await ask(path(about, "card"), { signal, text: true })));
}

export function title(channel) {
  const where = channel.district ? `, ${channel.district}` : "";
  return el("h3", `${channel.sensor}${where}: ${channel.kind}${channel.unit ? ` (${unit(channel.unit)})` : ""}`);
}

/** Draw what an answer says of the channel into an element. */
export function draw(into, told, channel, about) {
  const s = series(told, channel, about);
  if (!s.x.length) {
    into.append(el("p", `It says nothing of ${channel.kind} at ${channel.sensor}.`));
    return;
  }
  chart(into, s);
  into.append(numbers(s));
}

/** What a forecast is of, plainly. */
function whence(told, about) {
  const current = told.digest === about.digest;
  const version = told.version ?? (current ? about.version : null);
  const by = `by ${version ? `version ${version}, ` : ""}digest ${short(told.digest)}`;
  if (told.of === "example")
    return `Golden example of the release, ${by}: no forecast or request is known yet. Its time is not known.`;
  const issued = Date.parse(told.issued);
  const when = `${moment(issued, about.timezone)}, ${ago((Date.now() - issued) / 1000)}`;
  const which = current ? by : `${by} (not the release that answers now)`;
  if (told.of === "batch") return `Newest batch forecast, as of ${when}, ${which}.`;
  return `Newest answered request, of ${when}, ${which}. Whoever asked chose the readings.`;
}
