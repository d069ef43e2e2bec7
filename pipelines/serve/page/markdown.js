// Markdown as cards are written: headings, paragraphs, tables, lists, code, bold. Whatever else stays text.

import { el } from "./dom.js";

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|\\([\\`*_|<>#-])/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INDENT = "    ";
const BELOW = 2; // the page has headings above the card's

/** A fragment; nothing of `text` can become anything but the elements made here. */
export function markdown(text) {
  const out = document.createDocumentFragment();
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let at = 0;
  while (at < lines.length) at = block(lines, at, out);
  return out;
}

/** Append the block that begins at line `at`, and return where the next one does. */
function block(lines, at, out) {
  const line = lines[at];
  if (!line.trim()) return at + 1;
  if (line.startsWith(INDENT)) return code(lines, at, out);
  const heading = HEADING.exec(line);
  if (heading) {
    const level = Math.min(6, heading[1].length + BELOW);
    out.append(inline(el(`h${level}`), heading[2]));
    return at + 1;
  }
  if (isTable(lines, at)) return table(lines, at, out);
  if (ITEM.test(line)) return list(lines, at, out);
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !begins(lines, end)) end += 1;
  out.append(inline(el("p"), lines.slice(at, end).join(" ")));
  return end;
}

const isTable = (lines, at) => lines[at].includes("|") && DIVIDER.test(lines[at + 1] ?? "");
const begins = (lines, at) => HEADING.test(lines[at]) || ITEM.test(lines[at]) || isTable(lines, at);

function code(lines, at, out) {
  let end = at;
  while (end < lines.length && (!lines[end].trim() || lines[end].startsWith(INDENT))) end += 1;
  const inside = lines.slice(at, end).map(line => line.slice(INDENT.length));
  out.append(el("pre", { tabindex: 0 }, el("code", inside.join("\n").trimEnd())));
  return end;
}

function table(lines, at, out) {
  const sides = cells(lines[at + 1]).map(c => (c.endsWith(":") ? "number" : null));
  const row = (line, name) =>
    el("tr", ...cells(line).map((c, i) => inline(el(name, { class: sides[i], scope: name === "th" && "col" }), c)));
  let end = at + 2;
  while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
  const body = lines.slice(at + 2, end).map(line => row(line, "td"));
  const made = el("table", el("thead", row(lines[at], "th")), el("tbody", ...body));
  out.append(el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Table" }, made));
  return end;
}

const cells = line => {
  const inside = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inside.split(/(?<!\\)\|/).map(cell => cell.trim());
};

/** One level deep; an indented line goes on with the item before it. */
function list(lines, at, out) {
  const items = [];
  let end = at;
  for (; end < lines.length && lines[end].trim(); end += 1) {
    const item = ITEM.exec(lines[end]);
    if (item) items.push([item[3]]);
    else if (lines[end].startsWith("  ")) items.at(-1).push(lines[end].trim());
    else break;
  }
  const name = /\d/.test(ITEM.exec(lines[at])[2]) ? "ol" : "ul";
  out.append(el(name, ...items.map(words => inline(el("li"), words.join(" ")))));
  return end;
}

function inline(into, text) {
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    const [all, , verbatim, bold, escaped] = found;
    into.append(rest.slice(0, found.index));
    if (verbatim !== undefined) into.append(el("code", verbatim));
    else if (bold !== undefined) into.append(inline(el("strong"), bold));
    else into.append(escaped);
    rest = rest.slice(found.index + all.length);
  }
  into.append(rest);
  return into;
}
