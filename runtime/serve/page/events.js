// Reads server-sent events from the body of a response: {name, data}, one after the other.
//
// Taking each piece of a text as it comes costs more than showing it: the processor is woken, and several promises are
// kept. So the first piece is taken at once, and the following ones are left to gather in between two readings.

const SILENCE = 30_000; // milliseconds; the service says something every 10 seconds
const GATHERING = 400; // milliseconds

export async function* readEvents(response) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let began = false; // whether text streams
  try {
    for (;;) {
      const { done, value } = await withLimit(reader.read());
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop();
      for (const event of gathered(blocks.map(parsed))) yield event;
      if (began) await new Promise((resolve) => setTimeout(resolve, GATHERING));
      began ||= blocks.some((block) => block.startsWith("event: text\n"));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const found = block.match(/^event: (.*)\ndata: (.*)$/);
  return found ? { name: found[1], data: JSON.parse(found[2]) } : { name: "alive" };
}

// Pieces of the same text that follow one another are one piece.
function gathered(events) {
  const whole = [];
  for (const event of events) {
    const last = whole.at(-1);
    if (event.name === "text" && last?.name === "text" && last.data.number === event.data.number) {
      last.data.text += event.data.text;
    } else whole.push(event);
  }
  return whole;
}

function withLimit(promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("silence")), SILENCE);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
