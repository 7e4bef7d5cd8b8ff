// What the page asks the service. Everything that goes wrong is a ServiceError with a code of the service, or "lost".

import { readEvents } from "./events.js";
import { takeToken } from "./token.js";

const token = takeToken();
const SILENCE = 90_000; // milliseconds without an answer; the service itself waits a minute for the model
const LEFT = "conversations"; // ids that are still to be deleted, in case the page is reloaded before they are

export class ServiceError extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}

async function call(method, path, { type, body, signal, keepalive = false } = {}) {
  const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(type && { "content-type": type }) };
  const silent = new AbortController();
  const timer = setTimeout(() => silent.abort(), SILENCE);
  const ends = AbortSignal.any([silent.signal, ...(signal ? [signal] : [])]);
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal: ends, keepalive, cache: "no-store" });
  } catch (error) {
    throw signal?.aborted ? error : new ServiceError("lost");
  } finally {
    clearTimeout(timer);
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ServiceError(problem.code ?? "internal_error");
}

// The model's name, notice and sections, how long a report takes, and what this page was told to do.
export const about = async () => (await call("GET", "/about")).json();

// A photo is checked and kept: {id, image: {notes}}. Not to be aborted, so that its id is known and can be deleted.
export async function openConversation(photo) {
  const response = await call("POST", "/v1/conversations", { type: photo.type, body: photo });
  const conversation = await response.json();
  remember([...remembered(), conversation.id]);
  return conversation;
}

export async function forget(id) {
  try {
    await call("DELETE", `/v1/conversations/${id}`, { keepalive: true });
  } catch (error) {
    if (!["conversation_unknown", "token_wrong", "token_missing"].includes(error.code)) return;
  }
  remember(remembered().filter((other) => other !== id));
}

// Conversations of a page that was reloaded, or that could not be deleted when the service was away.
export const forgetAll = () => Promise.all(remembered().map(forget));

const remembered = () => JSON.parse(sessionStorage.getItem(LEFT) ?? "[]");

function remember(ids) {
  if (ids.length) sessionStorage.setItem(LEFT, JSON.stringify(ids));
  else sessionStorage.removeItem(LEFT);
}

export const report = (id, signal) => events(`/v1/conversations/${id}/report`, {}, "report", signal);
export const answer = (id, question, signal) =>
  events(`/v1/conversations/${id}/questions`, { question }, "answer", signal);
export const compare = (id, choices, signal) =>
  events(`/v1/conversations/${id}/consistency`, { choices }, "consistency", signal);

// The events of an answer; `last` is the one without which it is not whole.
async function* events(path, given, last, signal) {
  const body = JSON.stringify(given);
  const response = await call("POST", path, { type: "application/json", body, signal });
  let whole = false;
  try {
    for await (const event of readEvents(response)) {
      if (event.name === "error") throw new ServiceError(event.data.code);
      whole ||= event.name === last;
      yield event;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServiceError) throw error;
    throw new ServiceError("lost");
  }
  if (!whole) throw new ServiceError("lost");
}
