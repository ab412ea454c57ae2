// The talks of this tab: what the person does with them, and what the server answers.

import { ExchangeView } from "./exchange.js";
import { ServerError } from "./server.js";
import { keep, kept } from "./storage.js";
import { answer, answered, branch, contextOf, isPrompt, nameOf, newExchange, newReply, newTalk, voiceOf } from "./talks.js";

const RETRY = { temperature: 0.8, top_p: 0.95 }; // of another reply where the first was not sampled
const LATER = new ServerError("refused", "This message has no reply yet.");
const STOPPED = new ServerError("refused", "You stopped it before it said anything.");
const LEFT_OUT = new ServerError("refused", "It got no reply, and is left out of the talk.");

export class Conversation {
  #server;
  #place;
  #page;
  #views = new Map();
  #earlier;
  #running = null;
  #hearing = null;

  /**
   * @param {HTMLElement} place of the exchanges
   * @param page announce(text) for those who listen; changed(); edit(text) when a message is taken back
   */
  constructor(server, place, page) {
    this.#server = server;
    this.#place = place;
    this.#page = page;
    const before = kept("talks");
    this.#earlier = before?.earlier ?? [];
    this.#open(before?.talk ?? newTalk([]));
  }

  get replying() {
    return this.#running !== null;
  }

  /** Every talk of this tab in which something was answered, oldest first. */
  get talks() {
    return [...this.#earlier, this.talk].filter((talk) => answered(talk.exchanges).length);
  }

  /** True where a message to `persona` begins a new talk: a talk has one persona. */
  isOther(persona) {
    return this.talk.exchanges.length > 0 && persona.join("\n") !== this.talk.persona.join("\n");
  }

  /** Begin a new talk; the present one is kept for the export. */
  begin(persona) {
    this.stop();
    this.#earlier.push(this.talk);
    this.#open(newTalk(persona));
    this.#changed();
  }

  /** @param {string} text  @param setup { persona, model, choice, decoding } */
  async say(text, setup) {
    if (this.isOther(setup.persona)) this.begin(setup.persona);
    this.talk.persona = setup.persona;
    for (const exchange of this.talk.exchanges) this.#views.get(exchange).error = leftOut(exchange);
    const exchange = newExchange(text, setup);
    this.talk.exchanges.push(exchange);
    this.#show(exchange);
    this.#renderAll();
    await this.#answer(exchange, exchange);
  }

  /** Stop what is being said; what was said so far stays. */
  stop() {
    this.#running?.abort();
    this.#hearing?.abort();
  }

  #open(talk) {
    this.talk = talk;
    this.#running = null;
    this.#views.clear();
    this.#place.replaceChildren();
    for (const exchange of talk.exchanges) this.#show(exchange).error = leftOut(exchange);
    const last = talk.exchanges.at(-1);
    if (last && !last.voice) this.#views.get(last).error = LATER;
    this.#renderAll();
  }

  #show(exchange) {
    const view = new ExchangeView(exchange, {
      isLast: () => this.talk.exchanges.at(-1) === exchange,
      hear: (voice) => this.#hear(exchange, String(voice)),
      leave: () => this.#leave(view),
      adopt: () => this.#adopt(exchange),
      rate: (rating) => this.#rate(exchange, rating),
      retry: () => this.#answer(exchange, another(exchange)),
      again: () => this.#answer(exchange, view.how),
      edit: () => this.#edit(exchange),
    });
    view.how = exchange;
    this.#views.set(exchange, view);
    this.#place.append(view.element);
    return view;
  }

  #renderAll() {
    for (const view of this.#views.values()) view.render();
  }

  #changed() {
    keep("talks", { earlier: this.#earlier, talk: this.talk });
    this.#page.changed();
  }

  /** Let the model answer `exchange`; `how` is its own choice and decoding, or those of another try. */
  async #answer(exchange, how) {
    if (this.#running) return;
    const view = this.#views.get(exchange);
    const running = new AbortController();
    const before = exchange.voice;
    this.#running = running;
    Object.assign(view, { how, error: null, beside: null, told: "" });
    this.#changed();
    const { reply, error } = await this.#collect(exchange, how, running.signal, (live, selection) => {
      if (how === exchange && selection) exchange.selection = selection;
      view.live = live;
      view.render();
    });
    const current = this.#running === running; // else another talk has begun meanwhile
    if (current) this.#running = null;
    if (exchange.voice !== before) { // what another voice said was adopted meanwhile, and stands
      view.live = null;
      view.render();
      this.#changed();
      return;
    }
    const worse = error && (!reply.text || answer(exchange)?.text);
    const silence = worse ? null : settle(exchange, reply);
    Object.assign(view, { live: null, error: error ?? silence });
    view.render();
    this.#changed();
    if (current && !view.error) this.#page.announce(`${nameOf(exchange.voice, exchange.model)} says: ${answer(exchange).text || "nothing"}`);
  }

  /** A reply as the server streams it: { reply, error }. `onPiece` gets it as far as it has come, and the selection. */
  async #collect(exchange, { choice, decoding }, signal, onPiece) {
    const reply = newReply();
    const { persona } = this.talk;
    const messages = contextOf(this.talk, exchange);
    onPiece(reply, null);
    try {
      const request = { model: exchange.model, messages, persona, user: this.#user, ...choice, ...decoding };
      for await (const piece of this.#server.reply(request, signal)) {
        reply.id ??= piece.id;
        reply.text = (reply.text + piece.text).trimStart();
        reply.ended = piece.ended ?? reply.ended;
        onPiece(reply, piece.selection);
      }
      return { reply, error: null };
    } catch (error) {
      if (!signal.aborted) return { reply, error };
      reply.ended = "stopped";
      return { reply, error: null };
    }
  }

  /** Show what `voice` would have said, beside the reply; or leave it when it is shown, or is the reply. */
  async #hear(exchange, voice) {
    const view = this.#views.get(exchange);
    this.#hearing?.abort();
    const spoke = exchange.voice ?? voiceOf(exchange.selection);
    if (voice === spoke || voice === view.beside?.voice) {
      this.#leave(view);
      return;
    }
    const beside = { voice, reply: exchange.replies[voice] ?? newReply(), live: false, error: null };
    view.beside = beside;
    if (!exchange.replies[voice]) await this.#ask(exchange, beside, view);
    view.render();
    if (view.beside === beside && !beside.error) {
      this.#page.announce(`${nameOf(voice)} would have said: ${beside.reply.text || "nothing"}`);
    }
  }

  async #ask(exchange, beside, view) {
    this.#hearing = new AbortController();
    const how = { choice: { prompt: Number(beside.voice) }, decoding: exchange.decoding };
    beside.live = true;
    const { reply, error } = await this.#collect(exchange, how, this.#hearing.signal, (live) => {
      beside.reply = live;
      view.render();
    });
    Object.assign(beside, { live: false, error });
    if (error || reply.ended === "stopped") return;
    exchange.replies[beside.voice] = reply;
    this.#changed();
  }

  #leave(view) {
    const voice = view.beside?.voice;
    this.#hearing?.abort();
    view.beside = null;
    view.render();
    if (voice !== undefined) view.focusVoice(voice);
  }

  /** What is shown beside the reply takes its place; where the talk has gone on since, a new one begins from here. */
  #adopt(exchange) {
    this.stop();
    const view = this.#views.get(exchange);
    const { voice, reply } = view.beside;
    exchange.replies[voice] = reply;
    if (this.talk.exchanges.at(-1) === exchange) {
      exchange.voice = voice;
      Object.assign(view, { beside: null, error: null, told: "" });
      view.render();
      this.#page.announce(`${nameOf(voice)}: this reply is now part of the talk.`);
    } else {
      this.#earlier.push(this.talk);
      this.#open(branch(this.talk, exchange, voice));
      this.#page.announce("The talk goes on from here. What came after is kept for the export.");
    }
    this.#changed();
    this.#views.get(this.talk.exchanges.at(-1)).focusReply();
  }

  async #rate(exchange, rating) {
    const view = this.#views.get(exchange);
    const reply = answer(exchange);
    if (reply.rating === rating) return;
    reply.rating = rating;
    view.told = "";
    view.render();
    this.#changed();
    view.told = await this.#server.rate(reply.id, rating).then(
      () => "Thank you.",
      (error) => `Kept in this tab only. ${error.message}`,
    );
    view.render();
    this.#page.announce(view.told);
  }

  #edit(exchange) {
    this.talk.exchanges = this.talk.exchanges.filter((other) => other !== exchange);
    this.#views.get(exchange).element.remove();
    this.#views.delete(exchange);
    this.#renderAll();
    this.#changed();
    this.#page.edit(exchange.user);
  }

  /** A name for this tab, so that the server can tell its records from others'; it says nothing about the person. */
  get #user() {
    const random = () => [...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("");
    const user = kept("user") ?? random();
    keep("user", user);
    return user;
  }
}

/** Make `reply` the one that counts. Returns why it cannot be, or null. */
function settle(exchange, reply) {
  if (!reply.text && answer(exchange)?.text) return null; // another try that said nothing takes nothing away
  if (!reply.text && reply.ended === "stopped") return STOPPED;
  exchange.voice ??= voiceOf(exchange.selection);
  exchange.replies[exchange.voice] = reply;
  return null;
}

/** Another reply from the same voice: sampled, since the likeliest words would be the same again. */
function another({ choice, decoding, voice }) {
  return {
    choice: isPrompt(voice) ? { prompt: Number(voice) } : choice,
    decoding: decoding.temperature > 0 ? decoding : { ...decoding, ...RETRY },
  };
}

function leftOut(exchange) {
  return answer(exchange)?.text ? null : LEFT_OUT;
}

