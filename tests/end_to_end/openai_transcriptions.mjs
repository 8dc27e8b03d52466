// What OpenAI's own package for JavaScript makes of the speech-to-text app, as JSON on standard output.
// node openai_transcriptions.mjs http://127.0.0.1:6006/v1 clip.wav
import { createReadStream } from "node:fs";
import OpenAI from "openai";

const [baseURL, clip] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const ask = (options) => client.audio.transcriptions.create({ file: createReadStream(clip), model: "whisper-1", ...options });

async function refused(request) {
  try {
    await request();
    return null;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const verbose = await ask({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
const vad = { type: "server_vad", threshold: 0.6, prefix_padding_ms: 100, silence_duration_ms: 500 };
const chunked = await ask({ chunking_strategy: vad, temperature: 0.2, prompt: "Names: Emma." });
const subtitles = await ask({ response_format: "srt" });
const events = [];
for await (const event of await ask({ stream: true })) events.push(event.type);
const model = await client.models.retrieve("gpt-4o-mini-transcribe");
const models = [];
for await (const one of client.models.list()) models.push(one.id);

console.log(
  JSON.stringify({
    verbose,
    chunked: chunked.text,
    subtitles,
    events,
    model: [model.id, model.object, model.alias_of],
    models,
    refusals: {
      temperature: await refused(() => ask({ temperature: 2 })),
      model: await refused(() => ask({ model: "whisper-9" })),
      threshold: await refused(() => ask({ chunking_strategy: { ...vad, threshold: 7 } })),
      translation: await refused(() => client.audio.translations.create({ file: createReadStream(clip), model: "whisper-1" })),
      retrieve: await refused(() => client.models.retrieve("gpt-5")),
    },
  }),
);
