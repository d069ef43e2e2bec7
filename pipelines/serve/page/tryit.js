// A form to ask the model: readings of one sensor in, an answer out.

import { Failed, ask } from "./api.js";
import { el, iso, short, span, unit } from "./dom.js";
import { draw, latest, path, pathOf, title } from "./panels.js";

const EXAMPLE =
  "These are of the release’s golden example. When they were read is not known: the times are made up, and a model " +
  "that goes by hour and weekday may find them odd.";

/** The form for one channel; denied(error) is told of a 401. */
export async function tryit(about, channel, signal, denied) {
  const start = await readings(about, channel, signal);
  const out = el("div", { "aria-live": "polite" });
  const wrong = error => out.replaceChildren(el("p.said", { role: "alert" }, error.message));
  const fixed = { rows: 12, wrap: "off", spellcheck: "false", autocomplete: "off", "aria-describedby": "how" };
  const text = el("textarea", { id: "readings", ...fixed });
  text.value = start.text;
  const send = el("button", "Ask the model");
  const submit = async event => {
    event.preventDefault();
    send.disabled = true;
    try {
      await answer(out, text.value, channel, about);
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      wrong(error);
      if (error.status === 401) denied(error);
    } finally {
      send.disabled = false;
    }
  };
  const json = () => {
    try {
      text.value = JSON.stringify(JSON.parse(body(text.value, channel)), null, 1);
    } catch (error) {
      wrong(error);
    }
  };
  return el(
    "form",
    { submit },
    title(channel),
    el("p", { id: "how" }, how(about, channel), " ", start.of),
    el("label", { for: "readings" }, "Readings"),
    text,
    el("div.row", send, el("button.plain", { type: "button", click: json }, "As JSON")),
    out,
  );
}

function how(about, channel) {
  const what = channel.unit ? `${channel.kind} in ${unit(channel.unit)}` : channel.kind;
  return (
    `One reading a line: a time, a comma, ${what}; nothing after the comma where nothing was read. Or a JSON body as ` +
    `POST /${path(about, "predict")} takes it. The model reads ${about.context} steps of ${span(about.step_s)}; ` +
    "here it is given this sensor alone, without its neighbours."
  );
}

/** What the form begins with: readings that are known, as text, and whose they are. */
async function readings(about, channel, signal) {
  let told = await latest(about, channel, signal);
  if (!told.observed) told = await ask(path(about, `${pathOf(channel)}&of=example`), { signal });
  const { time, value } = told.observed;
  const step = about.step_s * 1000;
  const end = Math.floor(Date.now() / step) * step;
  const when = i => (time ? Date.parse(time[i]) : end - (value.length - 1 - i) * step);
  const line = (v, i) => `${iso(when(i), about.timezone)}, ${v === null ? "" : Number(v.toPrecision(6))}`;
  return { text: value.map(line).join("\n"), of: time ? "These are of the newest request." : EXAMPLE };
}

async function answer(out, text, channel, about) {
  const asked = body(text, channel);
  const began = performance.now();
  const told = await ask(path(about, "predict"), { body: asked });
  const took = performance.now() - began;
  const by = `${told.version ? `version ${told.version}, ` : ""}digest ${short(told.digest)}`;
  const unknown = told.unknown?.length ? ` It never saw ${told.unknown.join(", ")}.` : "";
  const ms = took.toFixed(took < 10 ? 1 : 0);
  const said = `Answered in ${ms} ms, there and back, by ${by}; request ${told.request_id}.`;
  out.replaceChildren(el("p.of", said, unknown));
  draw(out, shaped(told, asked, channel), channel, about);
}

/** What to send, as JSON text. Raises Failed for what is neither lines nor JSON. */
function body(text, channel) {
  if (!/^\s*[{[]/.test(text)) return JSON.stringify({ rows: rows(text, channel), format: "columns" });
  try {
    return JSON.stringify(JSON.parse(text));
  } catch (error) {
    throw new Failed(`This is no JSON: ${error.message}`);
  }
}

function rows(text, { sensor, kind }) {
  return text.split("\n").flatMap((line, i) => {
    if (!line.trim()) return [];
    const [time, given, ...rest] = line.split(/[,;\t]/).map(part => part.trim());
    const value = given ? Number(given) : null;
    if (rest.length || !Number.isFinite(Date.parse(time)) || (value !== null && !Number.isFinite(value)))
      throw new Failed(`Line ${i + 1} is not a time, a comma and a number: ${line.trim().slice(0, 60)}`);
    return [{ time, sensor, kind, value }];
  });
}

/** An answer as columns, whichever form was asked for, and the readings it came from where those were rows. */
function shaped(told, asked, channel) {
  const names = Object.keys(told.rows?.[0] ?? { time: 0, sensor: 0, kind: 0 });
  const columns = told.columns ?? Object.fromEntries(names.map(name => [name, told.rows.map(row => row[name])]));
  const mine = JSON.parse(asked).rows?.filter(row => row.sensor === channel.sensor && row.kind === channel.kind) ?? [];
  const observed = { time: mine.map(row => row.time), value: mine.map(row => row.value) };
  return { ...told, columns, observed: mine.length ? observed : null };
}
