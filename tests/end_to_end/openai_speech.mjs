// What OpenAI's own package for JavaScript makes of /v1/audio/speech and /v1/voices, as JSON on standard output.
// node openai_speech.mjs http://127.0.0.1:7860/v1
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const input = "Hello from another language. How are you today? I am well.";
const common = { model: "tts-1", voice: "alloy", input };

const whole = await client.audio.speech.create({ ...common, response_format: "mp3" });
const audio = Buffer.from(await whole.arrayBuffer());

const stream = await client.audio.speech.create({ ...common, response_format: "pcm" });
const chunks = [];
for await (const chunk of stream.body) chunks.push(chunk.length);

const events = await client.audio.speech.create({ ...common, response_format: "pcm", stream_format: "sse" });
const told = (await events.text())
  .split("\n\n")
  .filter((block) => block)
  .map((block) => JSON.parse(block.replace(/^data: /, "")));

const voices = await client.get("/voices"); // the package has no method for it

let refused = null;
try {
  await client.audio.speech.create({ ...common, speed: 9 });
} catch (error) {
  refused = { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
}

console.log(
  JSON.stringify({
    type: whole.headers.get("content-type"),
    audio: audio.toString("base64"),
    chunks,
    deltas: told.slice(0, -1).map((event) => [event.type, Buffer.from(event.audio, "base64").length]),
    done: told.at(-1),
    voices: voices.data.map((voice) => voice.id),
    refused,
  }),
);
