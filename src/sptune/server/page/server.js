// The server's API as the page uses it. Every failure is a ServerError, whose message is for the person at the page.

import { eventData } from "./events.js";

/** What went wrong: `gone` (no answer), `busy` (try later), `key` (none was given), `refused` (asking again is no use). */
export class ServerError extends Error {
  /** @param {"gone"|"busy"|"key"|"refused"} kind  @param {number} wait seconds until trying again makes sense */
  constructor(kind, message, wait = 0) {
    super(message);
    this.kind = kind;
    this.wait = wait;
  }
}

const GONE = "The server does not answer. It may have stopped, or the network is down.";
const BROKE_OFF = "The connection broke off before the reply was complete.";
const BUSY = new Set([429, 503]);

export class Server {
  #keys;

  /** @param {{value: string, ask: (refused: boolean) => Promise<boolean>}} keys the key in use, and how to get one */
  constructor(keys) {
    this.#keys = keys;
  }

  /** The models: id, and `spt` (num_prompts, prompt_length, base) for those with soft prompts. */
  async models() {
    return (await this.#json("v1/models")).data;
  }

  /** Persona sentences by the persona's name. */
  async personas() {
    return (await this.#json("v1/spt/personas")).personas;
  }

  /** What the server keeps: `records` (talks and ratings are kept) and `retention_days` (for how long; null: for good). */
  async version() {
    return this.#json("version");
  }

  /** Tell the server that a reply was good (1) or bad (-1). */
  async rate(completion, rating) {
    await this.#json("v1/feedback", { completion_id: completion, rating });
  }

  /**
   * A reply, piece by piece.
   * @yields {{id: string, text: string, selection: ?{prompt: number, scores: number[], margin: number}, ended: ?string}}
   */
  async *reply(request, signal) {
    const response = await this.#send("v1/chat/completions", { ...request, stream: true }, signal);
    for await (const data of unlessBroken(eventData(response.body), signal)) {
      if (data === "[DONE]") return;
      const chunk = parsed(data);
      if (chunk.error) throw new ServerError("refused", asSentence(chunk.error.message));
      const choice = chunk.choices?.[0];
      yield {
        id: chunk.id,
        text: choice?.delta?.content ?? "",
        selection: chunk.spt ?? null,
        ended: choice?.finish_reason ?? null,
      };
    }
    throw new ServerError("gone", BROKE_OFF);
  }

  async #json(path, body) {
    const response = await this.#send(path, body);
    return parsed(await response.text());
  }

  /** Asks for the key as often as the server refuses the one it got. */
  async #send(path, body, signal) {
    for (;;) {
      const key = this.#keys.value;
      const response = await this.#fetch(path, body, signal, key);
      if (response.ok) return response;
      if (response.status !== 401) throw await errorOf(response);
      const changed = key !== this.#keys.value; // another request has asked meanwhile
      if (!changed && !(await this.#keys.ask(Boolean(key)))) {
        throw new ServerError("key", "This server replies only to those who have a key.");
      }
    }
  }

  async #fetch(path, body, signal, key) {
    const headers = new Headers();
    if (key) headers.set("Authorization", `Bearer ${key}`);
    if (body) headers.set("Content-Type", "application/json");
    try {
      return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ServerError("gone", GONE);
    }
  }
}

/** The items of `events`; a connection that breaks is a ServerError, unless it was `signal` that broke it. */
async function* unlessBroken(events, signal) {
  try {
    yield* events;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("gone", BROKE_OFF);
  }
}

/** The error of a response: the server's own words where it has any. */
async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const said = asSentence(body?.error?.message);
  const wait = Math.ceil(Number(response.headers.get("Retry-After")) || 0);
  if (BUSY.has(response.status)) return new ServerError("busy", said ?? "The server is busy.", wait);
  return new ServerError("refused", said ?? `The server answered with error ${response.status}.`);
}

function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    throw new ServerError("refused", "The server sent something that this page does not understand.");
  }
}

/** "a full queue" -> "A full queue."; names of fields stay as they are. */
function asSentence(text) {
  if (!text) return undefined;
  const start = /^[a-z]+ /.test(text) ? text[0].toUpperCase() : text[0];
  return start + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
