// Reads server-sent events from the body of a response: {name, data}, one after the other.

const SILENCE = 30_000; // milliseconds; the service says something every 10 seconds

export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await withLimit(reader.read());
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const found = block.match(/^event: (.*)\ndata: (.*)$/);
        yield found ? { name: found[1], data: JSON.parse(found[2]) } : { name: "alive" };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function withLimit(promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("silence")), SILENCE);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}
