// The page: which task and sensor are looked at (in the address, after #), who may, and what is shown of them.

import { Failed, ask, forget, keep, key } from "./api.js";
import { ago, byId, el, num, short, span, unit } from "./dom.js";
import { tryItem } from "./items.js";
import { card, forecast, latest, path } from "./panels.js";
import { clearSearch, drawSensors, targets } from "./sensors.js";
import { level, series } from "./series.js";
import { tryit } from "./tryit.js";

const REFRESH_MS = 30000;
const ROWS = 20000; // of a whole task's forecast, at most, to say something of every sensor
const TABS = { forecast: "Forecast", try: "Try it", card: "Card" };
const NAMES = { anomaly: "Alarms", impute: "Gaps" }; // of the first tab, where that is no forecast
const DOES = {
  forecast: "forecasts", classify: "tells classes", anomaly: "raises alarms", impute: "fills gaps",
  locate: "finds things", tag: "marks phrases",
};

/**
 * tasks, about: what the server says of all tasks, and of the one looked at; levels: of its channels, see `level`;
 * shown, told: what the panel shows, and the forecast there as text.
 */
const state = { tasks: null, about: null, channel: null, levels: null, shown: "", told: "" };
let going = new AbortController();

const route = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const link = to => `#${new URLSearchParams(Object.entries(to).filter(([, value]) => value))}`;

/** Bring the page to what the address says. Whatever fails is said in a line, and the rest stays. */
async function render() {
  going.abort();
  going = new AbortController();
  const { signal } = going;
  try {
    state.tasks ??= (await ask("v1/tasks", { signal })).tasks;
    byId("forget").hidden = !key();
    const want = route();
    const task = state.tasks.find(t => t.task === want.task) ?? state.tasks.find(t => t.ready);
    drawTasks(task);
    say(trouble(want, task));
    byId("task").hidden = !task?.ready;
    if (!task?.ready) return;
    if (state.about?.digest !== task.digest || state.about.task !== task.task) {
      const about = await ask(path(task), { signal });
      Object.assign(state, { about, channel: null, levels: null, shown: "", told: "" });
      clearSearch();
      if (about.sensors) void learn(about);
    }
    byId("task").classList.toggle("alone", !state.about.sensors);
    await (state.about.sensors ? drawTask : drawItems)(want, signal);
  } catch (error) {
    if (!signal.aborted) failed(error);
  }
}

function trouble(want, task) {
  if (!state.tasks.length) return "No task to show: none is promoted yet, or this key may ask none.";
  if (want.task && task?.task !== want.task) return `There is no task ${want.task} here.`;
  if (!task) return "No task is loaded; see the server’s log.";
  return task.ready ? "" : `${task.task} is not loaded, so it answers nothing yet; see the server’s log.`;
}

function say(text) {
  byId("said").textContent = text;
  byId("said").hidden = !text;
}

function failed(error) {
  if (!(error instanceof Failed)) console.error(error);
  say(error instanceof Failed ? error.message : "The page itself failed; reload it.");
  if (error.status === 401) lock();
}

/** Ask for a key; one that is no good is forgotten. */
function lock() {
  if (!key()) say("");
  forget();
  Object.assign(state, { tasks: null, about: null });
  byId("door").hidden = false;
  byId("forget").hidden = true;
  byId("task").hidden = true;
  byId("tasks").replaceChildren(el("li.hint", "Shown once there is a key."));
  byId("key").focus();
}

const drawTasks = chosen => refill(byId("tasks"), state.tasks.map(t => el("li", taskLink(t, t === chosen))));

/** Put links in place of others; the focus stays where it was. */
function refill(box, links) {
  const focused = [...box.querySelectorAll("a")].indexOf(document.activeElement);
  box.replaceChildren(...links);
  if (focused >= 0) box.querySelectorAll("a")[focused]?.focus();
}

function taskLink(t, chosen) {
  const does = [t.department, DOES[t.objective] ?? t.objective].filter(Boolean).join(" · ");
  const who = [t.version && `version ${t.version}`, short(t.digest), t.age_s != null && `loaded ${ago(t.age_s)}`];
  return el(
    "a",
    { href: link({ task: t.task }), "data-task": t.task, "aria-current": chosen ? "true" : null },
    el("strong", t.task),
    el("span.does", t.ready ? does : "not loaded"),
    t.question && el("span.asks", t.question),
    t.watched && how(t.watched),
    t.ready && el("span.who", { title: t.digest }, who.filter(Boolean).join(" · ")),
  );
}

/** How it does where somebody watches it: the decision, the live figure against the gate, drift. */
function how({ decision, metric, week, gate, drift, reasons, ...w }) {
  const name = metric === "mae" ? "MAE" : metric.replaceAll("_", " ");
  const live = [`live ${name} ${num(week?.model)}`, unit(w.unit), gate != null && `(gate ${num(gate)})`];
  const said = [
    { fine: "✓ fine", watch: "◉ watch", retrain: "↻ to be trained anew" }[decision],
    week && live.filter(Boolean).join(" "),
    drift && (drift.changed_since ? `city changed since ${drift.changed_since}` : `drift ${drift.drifted} of ${drift.tested}`),
    drift?.faulty > 0 && `${drift.faulty} broken`,
  ];
  return el(`span.how.${decision}`, { title: reasons.join(" ") }, said.filter(Boolean).join(" · "));
}

async function drawTask(want, signal) {
  const { about } = state;
  const own = targets(about);
  const same = own.filter(c => c.sensor === want.sensor);
  const channel = same.find(c => c.kind === want.kind) ?? same[0] ?? own[0];
  if (want.sensor && !same.length) say(`${about.task} answers no sensor ${want.sensor}; this is ${channel.sensor}.`);
  document.title = `${channel.sensor} · ${about.task} · Cityloop`;
  byId("task-title").textContent = about.task;
  byId("reach").textContent = reach(about);
  tellHow();
  const show = TABS[want.show] ? want.show : "forecast";
  const tab = ([name, text]) => {
    const href = link({ task: about.task, sensor: channel.sensor, kind: channel.kind, show: name });
    const shown = (name === "forecast" && NAMES[about.objective]) || text;
    return el("a", { href, "aria-current": name === show ? "page" : null }, shown);
  };
  refill(byId("tabs"), Object.entries(TABS).map(tab));
  if (state.channel !== channel) {
    state.channel = channel;
    drawSensors({ about, channel, levels: state.levels, choose }, true);
  }
  await drawPanel(show, signal);
}

/** A task of pictures or messages: nothing to choose, and nothing known before somebody asks. */
async function drawItems(want, signal) {
  const { about } = state;
  document.title = `${about.task} · Cityloop`;
  byId("task-title").textContent = about.task;
  tellHow();
  byId("reach").textContent = `${about.modality === "image" ? "Pictures" : "Messages"}: ${about.names.join(", ")}`;
  const show = want.show === "card" ? "card" : "try";
  const tab = name => {
    const told = { href: link({ task: about.task, show: name }), "aria-current": name === show ? "page" : null };
    return el("a", told, TABS[name]);
  };
  refill(byId("tabs"), ["try", "card"].map(tab));
  await drawPanel(show, signal);
}

/** What was decided of the task, and why. */
function tellHow() {
  const told = state.tasks.find(t => t.task === state.about.task)?.watched;
  byId("how").hidden = !told?.reasons.length;
  byId("how").textContent = told ? `Readings until ${told.until.slice(0, 10)}: ${told.reasons.join(" ")}` : "";
}

/** What it answers from what, in time. */
function reach({ objective, horizon, context, step_s: step }) {
  const asked = NAMES[objective] ? "The latest" : "The next";
  return `${asked} ${span(horizon * step)} in steps of ${span(step)}, from ${span(context * step)} of readings`;
}

/**
 * What the panel shows already stays: whatever somebody has opened or typed there is theirs. Another sensor's gives way
 * when this one's is there, so that nothing jumps.
 */
async function drawPanel(show, signal) {
  const { about, channel } = state;
  const frame = `${show} ${about.task} ${about.digest}`;
  const wanted = show === "card" || !channel ? frame : `${frame} ${channel.sensor} ${channel.kind}`;
  const again = state.shown === wanted;
  if (again && show !== "forecast") return;
  const panel = byId("panel");
  if (!state.shown.startsWith(frame)) panel.replaceChildren(el("p.hint", "Loading …"));
  try {
    const made = await { forecast: newest, card: theCard, try: attempt }[show](again, signal);
    if (signal.aborted) return;
    state.shown = wanted;
    if (made) panel.replaceChildren(made);
  } catch (error) {
    if (signal.aborted) return;
    state.shown = "";
    if (error.status === 401 || !(error instanceof Failed)) throw error;
    panel.replaceChildren(el("p.said", { role: "alert" }, error.message));
  }
}

/** The newest forecast; null where that is shown already. */
async function newest(again, signal) {
  const { about, channel } = state;
  const told = await latest(about, channel, signal);
  const text = JSON.stringify(told);
  if (again && text === state.told) return null;
  if (again) void learn(about);
  state.told = text;
  return forecast(told, channel, about);
}

const theCard = (_, signal) => card(state.about, signal);
const attempt = (_, signal) =>
  state.about.sensors ? tryit(state.about, state.channel, signal, failed) : tryItem(state.about, failed);

/** What is said of every sensor, where that is not too much to ask for. */
async function learn(about) {
  const own = targets(about);
  if (own.length * about.horizon > ROWS) return;
  try {
    const told = await ask(path(about, "forecast"));
    if (state.about !== about) return;
    const known = own.map(c => [c, series(told, c, about)]).filter(([, s]) => s.x.length);
    state.levels = new Map(known.map(([c, s]) => [c, level(s)]));
    const { channel, levels } = state;
    if (channel) drawSensors({ about, channel, levels, choose }, false);
  } catch (error) {
    // the panel tells of a 401
    if (error.status !== 401) say(`What is said of all sensors is not known: ${error.message}`);
  }
}

/** look: bring what is said of it into sight where that is below the list, as on a phone. */
function choose(channel, look = true) {
  const to = { ...route(), task: state.about.task, sensor: channel.sensor, kind: channel.kind };
  if (to.show === "card") delete to.show;
  history.replaceState(null, "", link(to));
  void render();
  const title = byId("task-title");
  const below = title.getBoundingClientRect().top > byId("sensors").getBoundingClientRect().bottom;
  if (look && below) title.scrollIntoView();
}

/** What is promoted and forecast changes while somebody looks. */
async function refresh() {
  if (document.hidden || !byId("door").hidden) return;
  try {
    state.tasks = (await ask("v1/tasks")).tasks;
  } catch (error) {
    failed(error);
    return;
  }
  await render();
}

byId("door").addEventListener("submit", event => {
  event.preventDefault();
  const given = byId("key").value.trim();
  byId("key").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    say("No key looks like that; copy it again.");
    return;
  }
  keep(given);
  byId("door").hidden = true;
  void render();
});
byId("forget").addEventListener("click", () => {
  forget();
  location.reload();
});
addEventListener("hashchange", render);
setInterval(refresh, REFRESH_MS);
void render();
