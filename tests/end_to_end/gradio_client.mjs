// What Gradio's own client for JavaScript makes of errors and of a cancelled job, as JSON on standard output, a line for each.
// node gradio_client.mjs http://127.0.0.1:7860 [errors | cancel]
import { once } from "node:events";
import { Client } from "@gradio/client";

const client = await Client.connect(process.argv[2], { events: ["data", "status"] });
const tell = (what) => console.log(JSON.stringify(what));

const submit = (text, more = {}) => client.submit("/synthesize", { text, ...more });

async function end(job) {
  const seen = [];
  for await (const event of job) {
    if (event.type === "status") seen.push({ stage: event.stage, message: event.message ?? null });
    else seen.push({ data: event.data.map((value) => value ?? null) });
  }
  return seen;
}

// Reads events until the job waits in the queue, or is at work.
const waits = (event) => event.position !== undefined && event.original_msg !== "process_starts";
const works = (event) => event.original_msg === "process_starts";
async function until(job, reached) {
  for (let next = await job.next(); !next.done; next = await job.next()) if (reached(next.value)) return;
}

if (process.argv[3] === "errors") {
  const wrong = [{ speed: "fast" }, { language: null }, { emotion: "furious" }, { emotion_vector: { joy: 1 } }];
  for (const more of wrong) tell((await end(submit("Hello.", more))).at(-1));
} else {
  const first = submit("The gate.");
  await until(first, works);
  const second = submit("Hello.");
  await until(second, waits);
  await second.cancel();
  tell({ second: await end(second) });
  tell({ first: await end(first) });
  tell({ third: await end(submit("Hello again.")) });
  const running = submit("Another gate.");
  await until(running, works);
  await once(process.stdin, "data"); // the engine is at work too
  await running.cancel();
  tell({ running: await end(running) });
}
process.exit(0); // its stream of heartbeats would keep it alive
