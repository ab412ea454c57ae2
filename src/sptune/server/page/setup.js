// The panel in which the person chooses who replies, and how.

import { keep, kept } from "./storage.js";

const DEFAULT_LENGTH = 64;
const find = (id) => document.querySelector(`#${id}`);

export class Setup {
  #models = new Map();
  #personas = {};
  #onChange;

  constructor(onChange) {
    this.#onChange = onChange;
    const before = kept("setup") ?? {};
    find("sentences").value = before.sentences ?? "";
    find("temperature").value = before.temperature ?? 0;
    find("length").value = before.length ?? DEFAULT_LENGTH;
    find("setup-form").addEventListener("submit", (event) => event.preventDefault());
    find("setup-form").addEventListener("input", (event) => this.#changed(event.target));
    this.#render();
  }

  /** Offer what the server has. What was chosen before a reload is chosen again; else the first adapter and persona. */
  offer(models, personas) {
    const before = kept("setup") ?? {};
    const first = models.find((model) => model.spt?.num_prompts) ?? models[0];
    this.#models = new Map(models.map((model) => [model.id, model]));
    this.#personas = personas;
    find("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
    find("model").value = this.#models.has(before.model) ? before.model : (first?.id ?? "");
    const names = Object.keys(personas);
    find("persona").replaceChildren(...names.map((name) => new Option(name, name)), new Option("your own", ""));
    this.#setPersona(before.sentences === undefined ? (names[0] ?? "") : (before.persona ?? ""), before.sentences);
    this.#offerPrompts(before.prompt);
    this.#changed(null);
  }

  get ready() {
    return this.#models.size > 0;
  }

  get model() {
    return find("model").value;
  }

  /** K; 0 for a model without soft prompts. */
  get numPrompts() {
    return this.#models.get(this.model)?.spt?.num_prompts ?? 0;
  }

  get personaName() {
    return find("persona").value;
  }

  get persona() {
    const lines = find("sentences").value.split("\n").map((line) => line.trim());
    return lines.filter(Boolean);
  }

  set persona(sentences) {
    this.#setPersona(this.#nameOf(sentences), sentences.join("\n"));
    this.#changed(null);
  }

  /** Fields of a request: who chooses the prompt. */
  get choice() {
    const value = find("prompt").value;
    if (!this.numPrompts) return {};
    if (value === "per_turn" || value === "sticky") return { prompt: "auto", selection: value };
    return { prompt: Number(value) };
  }

  /** Fields of a request: how tokens are chosen. */
  get decoding() {
    const length = find("length").valueAsNumber;
    return { temperature: find("temperature").valueAsNumber, max_tokens: length >= 1 ? Math.floor(length) : DEFAULT_LENGTH };
  }

  #setPersona(name, text) {
    find("persona").value = Object.hasOwn(this.#personas, name) ? name : "";
    find("sentences").value = text ?? (this.#personas[name] ?? []).join("\n");
  }

  /** The name of the persona with just these sentences, or "". */
  #nameOf(sentences) {
    const names = Object.keys(this.#personas);
    return names.find((name) => this.#personas[name].join("\n") === sentences.join("\n")) ?? "";
  }

  #offerPrompts(before) {
    const count = this.numPrompts;
    const place = find("prompt");
    const wanted = before ?? place.value;
    const forced = Array.from({ length: count }, (_, k) => new Option(`always prompt ${k}`, k));
    place.replaceChildren(
      new Option("the best for each message", "per_turn"),
      new Option("the same, until another is better", "sticky"),
      ...forced,
    );
    place.value = wanted;
    if (!place.value) place.value = "per_turn";
    find("prompt-field").hidden = count < 2;
  }

  #changed(field) {
    if (field?.id === "persona" && field.value) this.#setPersona(field.value);
    if (field?.id === "sentences") find("persona").value = this.#nameOf(this.persona);
    if (field?.id === "model") this.#offerPrompts();
    if (this.ready) keep("setup", this.#values());
    this.#render();
    this.#onChange();
  }

  #values() {
    const ids = ["model", "persona", "prompt", "temperature", "length", "sentences"];
    return Object.fromEntries(ids.map((id) => [id, find(id).value]));
  }

  #render() {
    const spt = this.#models.get(this.model)?.spt;
    find("temperature-value").textContent = find("temperature").valueAsNumber.toFixed(1);
    find("model-facts").textContent = this.ready ? factsOf(spt) : "";
  }
}

function factsOf(spt) {
  if (!spt?.num_prompts) return "The base model, without a prompt.";
  const prompts = spt.num_prompts === 1 ? "1 soft prompt" : `${spt.num_prompts} soft prompts`;
  return `${prompts} of ${spt.prompt_length} tokens, on ${spt.base}.`;
}
