// Talks as plain data: who speaks, what was said, which prompts could have said it, and their JSON lines.
//
// talk     = { id, persona: [sentence], exchanges: [exchange] }
// exchange = { user, model, choice, decoding, selection: null | { prompt, scores, margin, weights }, voice, replies: { voice: reply } }
// reply    = { id, text, ended: "stop" | "length" | "stopped" | "broken", rating }
//
// `choice` and `decoding` are fields of the request: who chooses the prompt, and how tokens are chosen. A voice is a
// prompt's number as a string, TOGETHER for all of them, or NO_PROMPT for a model without prompts; `exchange.voice` is the one whose reply counts,
// or null while there is none. The other replies are what other prompts would have said.

export const NO_PROMPT = "none";
export const TOGETHER = "together";
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** A talk in which nothing was said yet. */
export function newTalk(persona, exchanges = []) {
  const random = crypto.getRandomValues(new Uint32Array(1))[0].toString(36);
  return { id: `chat-${new Date().toISOString().slice(0, 10)}-${random}`, persona, exchanges };
}

export function newExchange(user, { model, choice, decoding }) {
  return { user, model, choice, decoding, selection: null, voice: null, replies: {} };
}

export function newReply() {
  return { id: null, text: "", ended: "broken", rating: 0 };
}

export function isPrompt(voice) {
  return voice !== null && voice !== undefined && voice !== NO_PROMPT && voice !== TOGETHER;
}

/** The number of the prompt that `voice` is, or null. */
export function promptOf(voice) {
  return isPrompt(voice) ? Number(voice) : null;
}

/** The voice that a reply with `selection` has. */
export function voiceOf(selection) {
  if (!selection) return NO_PROMPT;
  return selection.weights ? TOGETHER : String(selection.prompt);
}

/** What a voice of `model` is called. */
export function nameOf(voice, model) {
  if (voice === TOGETHER) return "All prompts together";
  return isPrompt(voice) ? `Prompt ${voice}` : model;
}

/** The reply of `exchange` that counts, or undefined. */
export function answer(exchange) {
  return exchange.replies[exchange.voice];
}

/** The exchanges in which something was answered: an empty reply is no part of a talk. */
export function answered(exchanges) {
  return exchanges.filter((exchange) => answer(exchange)?.text);
}

/** The messages up to the user's message of `exchange`, as the API takes them. */
export function contextOf(talk, exchange) {
  const before = answered(talk.exchanges.slice(0, talk.exchanges.indexOf(exchange)));
  return [...before.flatMap((past) => said(past, answer(past))), { role: "user", content: exchange.user }];
}

/** A new talk that goes on from `exchange` of `talk`, in which `voice` speaks instead. */
export function branch(talk, exchange, voice) {
  const exchanges = structuredClone(talk.exchanges.slice(0, talk.exchanges.indexOf(exchange) + 1));
  exchanges.at(-1).voice = voice;
  return newTalk(talk.persona, exchanges);
}

/** One JSON line for each talk in which something was answered: the `messages` form that `sptune train` reads. */
export function jsonLines(talks) {
  const lines = talks.filter((talk) => answered(talk.exchanges).length).map((talk) => `${JSON.stringify(record(talk))}\n`);
  return lines.join("");
}

function record(talk) {
  const exchanges = answered(talk.exchanges);
  const messages = exchanges.flatMap((exchange) => {
    const reply = answer(exchange);
    const [user, assistant] = said(exchange, reply);
    if (isPrompt(exchange.voice)) assistant.prompt = Number(exchange.voice);
    if (reply.rating) assistant.rating = reply.rating;
    return [user, { ...assistant, model: exchange.model }];
  });
  return { id: talk.id, persona: talk.persona.map(clean), messages };
}

function said(exchange, reply) {
  return [
    { role: "user", content: clean(exchange.user) },
    { role: "assistant", content: clean(reply.text) },
  ];
}

/** Without the characters that no dialogue file may hold: controls, and halves of surrogate pairs. */
function clean(text) {
  return text.replace(CONTROLS, "");
}
