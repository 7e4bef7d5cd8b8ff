// The `openai` package of npm with the service; prints what it found as one JSON object.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { BASE_URL, TOKEN, LONG_URL, LONG_TOKEN, PHOTO, QUESTION, SECOND } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: TOKEN, maxRetries: 0 });
const url = `data:image/jpeg;base64,${readFileSync(PHOTO).toString("base64")}`;
const first = {
  role: "user",
  content: [
    { type: "text", text: QUESTION },
    { type: "image_url", image_url: { url } },
  ],
};
const { data } = await client.models.list();
const model = data[0].id;

function create(messages, options = {}) {
  return client.chat.completions.create({ model, messages, ...options });
}

async function streamed(messages, options = {}) {
  const found = { text: "", finish: null, chunks: 0, usage: null };
  const stream = await create(messages, { stream: true, stream_options: { include_usage: true }, ...options });
  for await (const chunk of stream) {
    found.chunks += 1;
    found.text += chunk.choices[0]?.delta.content ?? "";
    found.finish ??= chunk.choices[0]?.finish_reason;
    found.usage ??= chunk.usage;
  }
  return found;
}

async function failure(work) {
  try {
    await work();
  } catch (error) {
    return {
      kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null, param: error.param ?? null,
      expected: error instanceof OpenAI.APIError,
    };
  }
  return null;
}

async function gauge() {
  const answer = await fetch(new URL("/metrics", LONG_URL), { headers: { Authorization: `Bearer ${LONG_TOKEN}` } });
  return Number(/^skingpt_requests_now (\S+)$/m.exec(await answer.text())[1]);
}

async function aborted() {
  // A model whose long answer takes longer than is waited for here, unless it is cancelled.
  const slow = new OpenAI({ baseURL: LONG_URL, apiKey: LONG_TOKEN, maxRetries: 0 });
  const name = (await slow.models.list()).data[0].id;
  const long = { model: name, messages: [first], n: 8, seed: 3, temperature: 2, top_p: 1, max_tokens: 1900 };
  const begun = Date.now();
  const tokens = (await slow.chat.completions.create(long)).usage.completion_tokens;
  const took = Date.now() - begun;
  const stream = await slow.chat.completions.create({ ...long, stream: true });
  const found = { tokens, chunks: 0 };
  for await (const chunk of stream) {
    found.chunks += chunk.choices.length;
    if (found.chunks === 10) {
      found.during = await gauge();
      stream.controller.abort();
    }
  }
  const end = Date.now() + took / 2;
  do {
    found.after = await gauge();
  } while (found.after && Date.now() < end);
  const next = await slow.chat.completions.create({ ...long, n: 1, max_tokens: 3 });
  return { ...found, next: next.usage.completion_tokens };
}

const whole = await create([first]);
const answer = whole.choices[0].message;
const followUp = await create([first, answer, { role: "user", content: SECOND }]);
const several = await create([first], { n: 2 });
console.log(
  JSON.stringify({
    model: (await client.models.retrieve(model)).id,
    whole,
    streamed: await streamed([first]),
    followUp,
    several: several.choices.map((choice) => choice.message.content),
    stopped: (await create([first], { stop: [" red"] })).choices[0],
    stoppedStream: await streamed([first], { stop: [" red"] }),
    length: (await create([first], { max_tokens: 3 })).choices[0],
    refused: await failure(() => create([first], { temperature: 3 })),
    unknown: await failure(() => client.models.retrieve("gpt-4o")),
    denied: await failure(() => new OpenAI({ baseURL: BASE_URL, apiKey: "wrong", maxRetries: 0 }).models.list()),
    aborted: await aborted(),
  }),
);
