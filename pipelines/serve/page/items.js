// A picture that is dropped or a message that is typed, and what the model says of it, drawn on it.

import { Failed, ask } from "./api.js";
import { el, num, percent, short, svg } from "./dom.js";
import { path } from "./panels.js";

/** The form for one task; denied(error) is told of a 401. */
export function tryItem(about, denied) {
  const out = el("div.answered", { "aria-live": "polite" });
  const send = async (kind, body, draw) => {
    const began = performance.now();
    try {
      const told = await ask(path(about, "predict"), { body, kind });
      out.replaceChildren(by(told, performance.now() - began), await draw(told.answers[0]));
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      out.replaceChildren(el("p.said", { role: "alert" }, error.message));
      if (error.status === 401) denied(error);
    }
  };
  return el("div", about.modality === "image" ? dropping(about, send) : typing(about, send), out);
}

function by(told, ms) {
  const who = `${told.version ? `version ${told.version}, ` : ""}digest ${short(told.digest)}`;
  const took = ms.toFixed(ms < 10 ? 1 : 0);
  return el("p.of", `Answered in ${took} ms, there and back, by ${who}; request ${told.request_id}.`);
}

function dropping(about, send) {
  const take = file => file && send("application/octet-stream", file, said => picture(file, said, about));
  const change = event => take(event.target.files[0]);
  const over = event => {
    event.preventDefault();
    zone.classList.toggle("over", event.type === "dragover");
    if (event.type === "drop") void take(event.dataTransfer.files[0]);
  };
  const input = el("input", { id: "picture", type: "file", accept: "image/*", change });
  const most = `Up to ${num(about.most.pixels / 1e6)} megapixels; it is answered and not kept.`;
  const zone = el(
    "label.drop",
    { for: "picture", dragover: over, dragleave: over, drop: over },
    el("strong", "Drop a picture here, or choose one"),
    el("span.hint", most),
    input,
  );
  return zone;
}

function typing(about, send) {
  const text = el("textarea", { id: "message", rows: 5, maxlength: about.most.characters });
  const button = el("button", "Ask the model");
  const submit = async event => {
    event.preventDefault();
    button.disabled = true;
    const asked = text.value;
    await send("application/json", JSON.stringify({ text: asked }), said => message(asked, said, about));
    button.disabled = false;
  };
  const hint = el("p.hint", "Any language it was trained on; it is answered and not kept.");
  return el("form", { submit }, el("label", { for: "message" }, "Message"), text, hint, el("div.row", button));
}

const colour = (about, label) => `c${Math.max(0, about.names.indexOf(label)) % 6}`;
const share = (part, whole) => `${Math.round((10000 * part) / whole) / 100}%`;

/** The picture as the browser shows it: upright, as the server counts its pixels too. */
async function picture(file, said, about) {
  const image = el("img", { src: URL.createObjectURL(file), alt: "What was asked about" });
  await image.decode().catch(() => null); // a TIFF is answered, though browsers do not show it
  URL.revokeObjectURL(image.src);
  if (!said.boxes) return el("figure", el("div.picture", image), el("figcaption", sentence(said)), bars(said, about));
  const marks = said.boxes.map(box => frame(box, said, about));
  const drawn = el("div.picture", image, svg("svg", { "aria-hidden": "true" }, ...marks));
  return el("figure", drawn, el("figcaption", counted(said.boxes)), table(said.boxes, ["x", "y", "width", "height"]));
}

function frame(box, { width, height }, about) {
  const at = { x: share(box.x, width), y: share(box.y, height) };
  const size = { width: share(box.width, width), height: share(box.height, height) };
  const text = svg("text", { ...at, dx: 4, dy: 14 }, `${box.label} ${percent(box.score)}`);
  return svg(`g.${colour(about, box.label)}`, svg("rect.box", { ...at, ...size }), text);
}

/** Places are in code points, and JavaScript counts otherwise. */
function message(text, said, about) {
  if (!said.spans) return el("figure", el("figcaption", sentence(said)), bars(said, about));
  const letters = [...text];
  const part = (from, to) => letters.slice(from, to).join("");
  const out = el("p.message");
  let at = 0;
  for (const { label, score, start, end } of said.spans) {
    const mark = el(`mark.${colour(about, label)}`, { title: percent(score) }, part(start, end), el("small", label));
    out.append(part(at, start), mark);
    at = end;
  }
  out.append(part(at));
  const texts = said.spans.map(span => ({ ...span, text: part(span.start, span.end) }));
  return el("figure", out, el("figcaption", counted(said.spans)), table(texts, ["text", "start", "end"]));
}

function sentence({ label, probabilities }) {
  return `Most likely ${label} (${percent(probabilities[label])}).`;
}

function counted(found) {
  const counts = new Map();
  for (const { label } of found) counts.set(label, (counts.get(label) ?? 0) + 1);
  return found.length ? `Found: ${[...counts].map(([label, n]) => `${n} × ${label}`).join(", ")}.` : "Nothing found.";
}

function bars({ probabilities }, about) {
  const ordered = Object.entries(probabilities).sort(([, a], [, b]) => b - a);
  const bar = (name, p) =>
    svg("svg.share", svg(`rect.${colour(about, name)}`, { width: share(p, 1), height: "100%" }));
  const row = ([name, p]) => el("tr", el("th", { scope: "row" }, name), el("td", bar(name, p)), number(percent(p)));
  return el("table.shares", el("caption", "Probabilities"), el("tbody", ...ordered.map(row)));
}

const number = text => el("td.number", text);

function table(found, columns) {
  if (!found.length) return "";
  const heads = ["label", "score", ...columns].map(name => el("th", { scope: "col" }, name));
  const cell = value => (typeof value === "number" ? number(num(value, 4)) : el("td", value));
  const row = one => el("tr", el("td", one.label), number(percent(one.score)), ...columns.map(name => cell(one[name])));
  const all = el("table", el("thead", el("tr", ...heads)), el("tbody", ...found.map(row)));
  const scroll = el("div.scroll", { tabindex: 0, role: "region", "aria-label": "All that was found" }, all);
  return el("details.numbers", el("summary", "All that was found"), scroll);
}
