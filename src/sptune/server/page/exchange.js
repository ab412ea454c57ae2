// One exchange on the page: the user's message, the reply, the scores behind it, and what another prompt would have said.

import { Problem } from "./problem.js";
import { reasonOf } from "./reason.js";
import { paint, ScoreBars } from "./scores.js";
import { answer, isPrompt, nameOf, promptOf, TOGETHER, voiceOf } from "./talks.js";

const NOTES = { stopped: "You stopped it here.", broken: "It broke off here." };

export class ExchangeView {
  /** The reply while it comes, or null. */
  live = null;
  /** What is shown beside the reply, or null: { voice, reply, live, error }. */
  beside = null;
  /** Why there is no reply, or no whole one: a ServerError, or null. */
  error = null;
  /** What became of a rating. */
  told = "";
  #bars = null;
  #problem;

  /** @param actions what the buttons do: hear(voice), adopt(), leave(), rate(rating), retry(), again(), edit(), isLast() */
  constructor(exchange, actions) {
    this.exchange = exchange;
    this.actions = actions;
    this.element = document.querySelector("#exchange").content.firstElementChild.cloneNode(true);
    this.#find(".user .text").textContent = exchange.user;
    this.#problem = new Problem(this.#find(":scope > .problem"), actions.again);
    const clicks = {
      ".adopt": actions.adopt,
      ".leave": actions.leave,
      ".together": () => actions.hear(TOGETHER),
      ".up": () => actions.rate(1),
      ".down": () => actions.rate(-1),
      ".retry": actions.retry,
      ".edit": actions.edit,
    };
    for (const [selector, action] of Object.entries(clicks)) this.#find(selector).addEventListener("click", action);
  }

  /** Show the exchange as it is now. */
  render() {
    this.#renderReply();
    this.#renderBeside();
    this.#renderScores();
    this.#renderActions();
    this.#problem.show(this.live ? null : this.error);
    this.#find(".edit").hidden = Boolean(answer(this.exchange));
  }

  focusReply() {
    this.#find(".reply").focus();
  }

  /** Focus what lets `voice` be heard. */
  focusVoice(voice) {
    if (isPrompt(voice)) this.#bars?.focus(Number(voice));
    else this.#find(".together").focus();
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  get #voice() {
    const { voice, selection } = this.exchange;
    return voice ?? (selection ? voiceOf(selection) : null);
  }

  get #most() {
    return this.exchange.decoding.max_tokens;
  }

  #renderReply() {
    const reply = this.live ?? answer(this.exchange);
    this.#find(".voices").hidden = !reply && !this.beside;
    this.#find(".reply").hidden = !reply;
    if (!reply) return;
    const speaker = nameOf(this.#voice, this.exchange.model);
    fill(this.#find(".reply"), { reply, speaker, live: Boolean(this.live), voice: this.#voice, most: this.#most });
  }

  #renderBeside() {
    const place = this.#find(".other");
    const { voice, reply, live, error } = this.beside ?? {};
    place.hidden = !this.beside;
    this.#find(".voices").classList.toggle("two", Boolean(this.beside));
    if (!this.beside) return;
    const speaker = `${nameOf(voice)} would have said`;
    fill(place, { reply, speaker, live, voice, most: this.#most, error });
    this.#find(".adopt").hidden = live || !reply.text || Boolean(error);
    this.#find(".adopt").textContent = this.actions.isLast() ? "Use this reply" : "Go on from here with this";
  }

  #renderScores() {
    const { selection } = this.exchange;
    this.#find(".foot").hidden = !selection && !answer(this.exchange);
    this.#find(".scores").hidden = !selection;
    if (!selection) return;
    this.#bars ??= new ScoreBars(this.#find(".scores"), selection.scores, this.actions.hear);
    this.#bars.mark(promptOf(this.#voice), promptOf(this.beside?.voice));
    const together = this.#find(".together");
    together.hidden = this.#voice === TOGETHER || !this.exchange.replies[TOGETHER];
    together.setAttribute("aria-expanded", String(this.beside?.voice === TOGETHER));
    this.#find(".reason").textContent = reasonOf({ ...this.exchange, voice: this.#voice });
  }

  #renderActions() {
    const reply = answer(this.exchange);
    this.#find(".ratings").hidden = !reply || Boolean(this.live);
    this.#find(".retry").hidden = !this.actions.isLast() || Boolean(this.error);
    this.#find(".up").hidden = this.#find(".down").hidden = !reply?.text;
    this.#find(".up").setAttribute("aria-pressed", String(reply?.rating === 1));
    this.#find(".down").setAttribute("aria-pressed", String(reply?.rating === -1));
    this.#find(".told").textContent = this.told;
  }
}

/** Show one voice: who speaks, what it said so far, and how it ended. */
function fill(place, { reply, speaker, live, voice, most, error }) {
  paint(place, voice);
  place.querySelector(".speaker").textContent = speaker;
  place.querySelector(".text").textContent = reply.text;
  place.querySelector(".dots").hidden = !live || reply.text !== "";
  place.classList.toggle("live", live);
  place.querySelector(".note").textContent = live ? "" : (error?.message ?? noteOf(reply, most));
}

function noteOf(reply, most) {
  if (reply.ended === "length") return `Cut off after ${most} tokens.`;
  return NOTES[reply.ended] ?? (reply.text ? "" : "It said nothing.");
}
