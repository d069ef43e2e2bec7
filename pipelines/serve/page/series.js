// What an answer says of one channel, in the shape that charts, tables and sentences are made from.

import { day, hour, moment, num, percent, span, unit } from "./dom.js";

/**
 * of: an answer with `columns` (and `observed`); channel: {sensor, kind, unit}; about: the task as the server tells it.
 *
 * x: ms since 1970 of each asked step, or, with timed false, ms since the last reading. read: [{x, y}] before and
 * during them. quantiles: {low, middle, high}; classes: [{name, shares}]; each only where the answer has it.
 */
export function series(of, channel, about) {
  const { columns } = of;
  const mine = columns.sensor.flatMap((s, i) => (s === channel.sensor && columns.kind[i] === channel.kind ? [i] : []));
  const take = name => columns[name] && mine.map(i => columns[name][i]);
  const timed = mine.length > 0 && columns.time[mine[0]] !== null;
  const observed = of.observed && isFirstKind(channel, about) ? of.observed : null;
  const last = observed?.step?.at(-1) ?? 0;
  const place = step => (step - last) * about.step_s * 1000;
  const x = timed ? take("time").map(Date.parse) : take("step").map(place);
  const begins = observed && (observed.time ? observed.time.map(Date.parse) : observed.step.map(place));
  const names = about.names.filter(name => columns[name] && !["class", "score", "alarm"].includes(name));
  const told = Object.keys(columns).filter(name => !["time", "sensor", "kind", "step"].includes(name));
  return {
    x, timed, step: about.step_s * 1000, zone: about.timezone,
    sensor: channel.sensor, kind: channel.kind, unit: unit(channel.unit),
    read: observed ? observed.value.map((y, i) => ({ x: begins[i], y })).filter(p => Number.isFinite(p.x)) : [],
    quantiles: columns["q0.5"] && { low: take("q0.1"), middle: take("q0.5"), high: take("q0.9") },
    classes: columns.class && names.map(name => ({ name, shares: take(name) })),
    class: take("class"), score: take("score"), alarm: take("alarm"),
    columns: told.map(name => [name, take(name)]),
  };
}

/** Readings that come with an answer are those of a sensor's first kind. */
const isFirstKind = (channel, about) =>
  about.sensors.find(c => c.sensor === channel.sensor && c.role === "target")?.kind === channel.kind;

/** When a step is, for people. */
export function when(s, x) {
  if (s.timed) return moment(x, s.zone);
  return x === 0 ? "0" : `${x < 0 ? "−" : "+"}${span(Math.abs(x) / 1000)}`;
}

/** The same in a sentence: the day only where it is another one than the first step's. */
function clock(s, x) {
  if (!s.timed) return when(s, x);
  const today = day(x, s.zone);
  return today === day(s.x[0], s.zone) ? hour(x, s.zone) : `${hour(x, s.zone)} on ${today}`;
}

const withUnit = (text, s) => (s.unit ? `${text} ${s.unit}` : text);

/** The answer in a sentence or two. */
export function sentence(s) {
  const n = s.x.length;
  if (!n) return `Nothing is known of ${s.kind} at ${s.sensor}.`;
  if (s.classes) return classes(s);
  if (s.alarm) return alarms(s);
  const { low, middle, high } = s.quantiles;
  const first = `${withUnit(num(middle[0]), s)} at ${clock(s, s.x[0])}`;
  const then = `${withUnit(num(middle[n - 1]), s)} at ${clock(s, s.x[n - 1])}`;
  return (
    `${s.kind} at ${s.sensor}: median ${first}${n > 1 ? `, ${then}` : ""}; in 8 of 10 cases between ` +
    `${num(low[n - 1])} and ${withUnit(num(high[n - 1]), s)} then.`
  );
}

function classes(s) {
  const runs = [];
  s.class.forEach((name, i) => {
    if (runs.at(-1)?.name === name) runs.at(-1).until = i;
    else runs.push({ name, from: i, until: i });
  });
  const told = runs.slice(0, 4).map(({ name, from, until }) => {
    const times = from === until ? `at ${clock(s, s.x[from])}` : `${clock(s, s.x[from])} to ${clock(s, s.x[until])}`;
    return `${name} ${times} (${percent(share(s, name, from))})`;
  });
  const odd = s.class.some((name, i) => s.classes.some(c => c.shares[i] > (share(s, name, i) ?? 1)));
  const why = odd ? " Rare classes weigh more, so one may be named before it is the likeliest." : "";
  return `Expected at ${s.sensor}: ${told.join(", then ")}${runs.length > 4 ? ", and so on" : ""}.${why}`;
}

const share = (s, name, i) => s.classes.find(c => c.name === name)?.shares[i];

function alarms(s) {
  const at = s.alarm.flatMap((a, i) => (a ? [i] : []));
  const steps = `${s.x.length} steps of ${span(s.step / 1000)}`;
  const score = [...s.score].reverse().find(Number.isFinite);
  const end = `score ${num(score)} at the end`;
  if (!at.length) return `No alarm at ${s.sensor} in ${steps}; ${end}.`;
  return `Alarm at ${s.sensor} in ${at.length} of ${steps}, last at ${when(s, s.x[at.at(-1)])}; ${end}.`;
}

/** One word or number for the whole answer, and one that a map can be coloured by. */
export function level(s) {
  if (s.classes) {
    const counts = s.classes.map(({ name }) => s.class.filter(c => c === name).length);
    const most = counts.indexOf(Math.max(...counts));
    return { text: s.classes[most].name, group: most };
  }
  if (s.alarm) {
    const alarm = s.alarm.some(Boolean);
    return { text: alarm ? "alarm" : "no alarm", group: alarm ? 0 : 2 };
  }
  const known = s.quantiles.middle.filter(Number.isFinite);
  const value = known.reduce((sum, v) => sum + v, 0) / known.length;
  return { text: withUnit(num(value), s), value };
}
