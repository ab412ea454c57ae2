// The key that the server may ask for. It lives in the tab's session storage and goes nowhere else.

import { keep, kept } from "./storage.js";

const NAME = "key";
const GIVEN = "given";

export class Keys {
  #dialog = document.querySelector("#key");
  #input = document.querySelector("#key-value");
  #asking = null;

  constructor(onChange) {
    this.value = kept(NAME) ?? "";
    this.onChange = onChange;
    document.querySelector("#key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#use(this.#input.value);
      this.#dialog.close(GIVEN);
    });
    document.querySelector("#key-cancel").addEventListener("click", () => this.#dialog.close());
  }

  /** Ask the person for a key, once for all who wait for it. False: none was given. */
  ask(refused) {
    this.#asking ??= this.#open(refused).finally(() => (this.#asking = null));
    return this.#asking;
  }

  forget() {
    this.#use("");
  }

  #use(key) {
    this.value = key;
    keep(NAME, key);
    this.onChange();
  }

  #open(refused) {
    this.#input.value = "";
    document.querySelector("#key-why").textContent = refused ? "It did not accept the one it got. Please try another." : "";
    this.#dialog.returnValue = "";
    this.#dialog.showModal();
    return new Promise((resolve) => {
      this.#dialog.addEventListener("close", () => resolve(this.#dialog.returnValue === GIVEN), { once: true });
    });
  }
}
