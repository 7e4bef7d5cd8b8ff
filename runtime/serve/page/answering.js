// One answer of the model at a time: it can be stopped, and while it is made nobody counts as away.

import { kindOf } from "./problems.js";
import { converse, current, onWipe } from "./visit.js";

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
    for await (const event of ask((visit.conversation ?? (await converse())).id, signal)) {
      if (signal.aborted) break;
      onEvent(event);
    }
    if (visit !== current()) return null;
    return stopping.signal.aborted ? "stopped" : "done";
  } catch (error) {
    if (visit !== current()) return null;
    if (stopping.signal.aborted) return "stopped";
    if (kindOf(error.code) === "gone") visit.conversation = null; // the next try sends the photo again
    return error.code ?? "page_failed";
  } finally {
    if (running === stopping) running = null;
  }
}

export const stopAnswer = () => running?.abort();

onWipe(() => {
  running = null;
});
