// Everything of one person: photo, conversation, report. `wipe` forgets it here and on the service.

import { forget, openConversation } from "./service.js";

class Visit {
  ended = new AbortController();
  photo = null; // a Blob
  address = null; // of the photo, for <img>
  fromCamera = false;
  conversation = null; // {id, image}
  report = null; // as the service gave it
  answers = []; // to further questions, as the service gave them
  began = Date.now();
}

let visit = new Visit();
const wipers = [];

export const current = () => visit;

// Called when everything of a person is to go from the page.
export function onWipe(wiper) {
  wipers.push(wiper);
}

export function setPhoto(photo, fromCamera) {
  dropPhoto();
  Object.assign(visit, { photo, fromCamera, address: URL.createObjectURL(photo) });
}

function dropPhoto() {
  dropConversation();
  if (visit.address) URL.revokeObjectURL(visit.address);
  Object.assign(visit, { photo: null, address: null, report: null, answers: [] });
}

export function dropConversation() {
  if (visit.conversation) forget(visit.conversation.id);
  visit.conversation = null;
}

// Sends the photo to the service, which checks it. It is sent again if the service has lost it.
export async function converse() {
  const mine = visit;
  const { photo } = mine;
  const gone = () => mine !== visit || photo !== mine.photo; // the person, or the photo, meanwhile
  let conversation;
  try {
    conversation = await openConversation(photo);
  } catch (error) {
    throw gone() ? new DOMException("the photo has gone", "AbortError") : error;
  }
  if (gone()) {
    forget(conversation.id);
    throw new DOMException("the photo has gone", "AbortError");
  }
  mine.conversation = conversation;
  return conversation;
}

export function wipe() {
  visit.ended.abort();
  dropPhoto();
  visit = new Visit();
  for (const wiper of wipers) wiper();
}
