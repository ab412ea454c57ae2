// The scores of the K prompts as bars. Each bar is a button that lets its prompt be heard; arrow keys move among them.

import { isPrompt } from "./talks.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
const COLOURS = 8; // of page.css; more prompts share them, and their numbers tell them apart

/** The class that gives `element` the colour of a prompt, or of no prompt. */
export function paint(element, voice) {
  for (const name of [...element.classList]) if (name.startsWith("hue-")) element.classList.remove(name);
  if (isPrompt(voice)) element.classList.add(`hue-${voice % COLOURS}`);
}

export class ScoreBars {
  #bars;

  /**
   * @param {HTMLElement} place an empty toolbar
   * @param {number[]} scores of the K prompts
   * @param {(prompt: number) => void} onChoose
   */
  constructor(place, scores, onChoose) {
    const best = Math.max(...scores);
    this.scores = scores;
    place.setAttribute("aria-label", `Scores of ${scores.length} prompts; choose one to read what it would have said`);
    this.#bars = scores.map((score, prompt) => makeBar(prompt, score, best));
    this.#bars.forEach((bar, prompt) => bar.addEventListener("click", () => onChoose(prompt)));
    place.classList.toggle("many", scores.length > COLOURS);
    place.replaceChildren(...this.#bars);
    place.addEventListener("keydown", (event) => this.#move(event));
    place.addEventListener("focusin", (event) => this.#rove(event.target));
    requestAnimationFrame(() => this.#bars.forEach((bar) => bar.classList.add("grown")));
  }

  /** Mark the prompt that spoke and the one that is shown beside its reply; null is none of them. */
  mark(spoke, beside) {
    this.#bars.forEach((bar, prompt) => {
      bar.classList.toggle("spoke", prompt === spoke);
      bar.classList.toggle("beside", prompt === beside);
      if (prompt === spoke) bar.setAttribute("aria-current", "true");
      else bar.removeAttribute("aria-current");
      if (prompt !== spoke) bar.setAttribute("aria-expanded", String(prompt === beside));
      else bar.removeAttribute("aria-expanded");
      const does = prompt === spoke ? "it spoke" : "read what it would have said";
      bar.setAttribute("aria-label", `Prompt ${prompt}, score ${this.scores[prompt].toFixed(3)}: ${does}`);
      bar.title = prompt === spoke ? `Prompt ${prompt} spoke` : `What would prompt ${prompt} have said?`;
    });
    this.#rove(this.#bars[beside ?? spoke ?? 0]);
  }

  focus(prompt) {
    this.#bars[prompt].focus();
  }

  #rove(stop) {
    for (const bar of this.#bars) bar.tabIndex = bar === stop ? 0 : -1;
  }

  #move(event) {
    const from = this.#bars.indexOf(event.target);
    const ends = { Home: 0, End: this.#bars.length - 1 };
    const to = ends[event.key] ?? from + (STEPS[event.key] ?? NaN);
    if (Number.isNaN(to)) return;
    event.preventDefault();
    this.#bars.at(to % this.#bars.length).focus();
  }
}

function makeBar(prompt, score, best) {
  const bar = document.querySelector("#bar").content.firstElementChild.cloneNode(true);
  const share = best > 0 ? Math.max(0, score) / best : 0;
  paint(bar, prompt);
  bar.style.setProperty("--share", share);
  bar.querySelector(".score").textContent = score.toFixed(3);
  bar.querySelector(".number").textContent = prompt;
  return bar;
}
