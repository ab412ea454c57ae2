// What outlives a reload of the page, and ends with the tab: session storage, where the browser grants it.

const PREFIX = "sptune.";

/** Keep a JSON value under `name`; without storage, or when it is full, the page goes on without. */
export function keep(name, value) {
  try {
    sessionStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // private windows and full storage: nothing is lost but the reload
  }
}

/** The value kept under `name`, or null. */
export function kept(name) {
  try {
    return JSON.parse(sessionStorage.getItem(PREFIX + name));
  } catch {
    return null;
  }
}
