// One answer of the model at a time: it can be stopped, and while it is made nobody counts as away.

import { kindOf } from "./problems.js";
import { converse, current, dropConversation, onWipe } from "./visit.js";

let running = null;

export const isAnswering = () => running !== null;

// Gives each event of `ask(conversation id, signal)` to `onEvent`. How it ended: "done", "stopped", or an error's code.
// Gives null if the person has gone meanwhile: then nothing may be shown any more.
export async function follow(ask, onEvent) {
  const visit = current();
  const stopping = new AbortController();
  running = stopping;
  const signal = AbortSignal.any([visit.ended.signal, stopping.signal]);
  try {
    for await (const event of asked(visit, ask, signal)) {
      if (signal.aborted) break;
      onEvent(event);
    }
    if (visit !== current()) return null;
    return stopping.signal.aborted ? "stopped" : "done";
  } catch (error) {
    if (visit !== current()) return null;
    if (stopping.signal.aborted) return "stopped";
    return error.code ?? "page_failed";
  } finally {
    if (running === stopping) running = null;
  }
}

// Where the service knows the conversation no more, as after it was started again, the photo is sent once more.
async function* asked(visit, ask, signal) {
  let begun = false;
  try {
    for await (const event of ask((visit.conversation ?? (await sent(signal))).id, signal)) {
      begun = true;
      yield event;
    }
  } catch (error) {
    if (kindOf(error.code) !== "gone" || visit !== current()) throw error;
    dropConversation();
    if (begun) throw error;
    yield* ask((await sent(signal)).id, signal);
  }
}

// The conversation once the photo is sent. To stop waiting for it does not stop the sending, so that it can be deleted.
function sent(signal) {
  signal.throwIfAborted();
  const stopped = new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
  return Promise.race([converse(), stopped]);
}

export const stopAnswer = () => running?.abort();

onWipe(() => {
  running = null;
});
