// What went wrong, and a way to try again: at once, or when the server has said it makes sense.

export class Problem {
  #place;
  #again;
  #shown = null;
  #timer = 0;

  /** @param {HTMLElement} place with `.what` and a button `.again`  @param {() => void} onAgain */
  constructor(place, onAgain) {
    this.#place = place;
    this.#again = place.querySelector(".again");
    this.#again.addEventListener("click", onAgain);
  }

  /** @param {?{message: string, wait: number}} error null hides it */
  show(error) {
    if (error === this.#shown) return;
    this.#shown = error;
    clearInterval(this.#timer);
    this.#place.hidden = !error;
    this.#place.querySelector(".what").textContent = error?.message ?? "";
    if (error) this.#countDown(Date.now() + error.wait * 1000);
  }

  #countDown(end) {
    const tick = () => {
      const left = Math.ceil((end - Date.now()) / 1000);
      this.#again.disabled = left > 0;
      this.#again.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
      if (left <= 0) clearInterval(this.#timer);
    };
    this.#timer = setInterval(tick, 250);
    tick();
  }
}
