// The server's answers, or a Failed with one line that says why there is none. The key stays in this tab.

const KEY = "cityloop-key";
const TIMEOUT_MS = 20000;

export const key = () => sessionStorage.getItem(KEY);
export const keep = value => sessionStorage.setItem(KEY, value);
export const forget = () => sessionStorage.removeItem(KEY);

export class Failed extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** What is at `path`, below where the page lies: JSON, or text with `text`. `body`: what is posted, of media type `kind`. */
export async function ask(path, { body, kind = "application/json", text, signal } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": kind };
  if (key()) headers["X-API-Key"] = key();
  const late = AbortSignal.timeout(TIMEOUT_MS);
  let response, said;
  try {
    response = await fetch(path, {
      headers,
      body,
      method: body === undefined ? "GET" : "POST",
      credentials: "omit",
      cache: "no-store",
      signal: signal ? (AbortSignal.any?.([signal, late]) ?? signal) : late,
    });
    said = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failed(
      late.aborted ? "The server did not answer in time; try again" : "The server does not answer; try again",
    );
  }
  if (!response.ok) throw new Failed(reason(said) ?? `The server answered ${response.status}`, response.status);
  if (text) return said;
  try {
    return JSON.parse(said);
  } catch {
    throw new Failed("The server’s answer is not JSON", response.status);
  }
}

function reason(said) {
  try {
    const { error } = JSON.parse(said);
    return typeof error === "string" ? error : null;
  } catch {
    return null;
  }
}
