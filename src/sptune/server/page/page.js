// The chat page: wires the setup panel, the conversation and the composer together.

import { Conversation } from "./conversation.js";
import { download } from "./download.js";
import { Keys } from "./keys.js";
import { Problem } from "./problem.js";
import { Server } from "./server.js";
import { Setup } from "./setup.js";
import { jsonLines } from "./talks.js";

const NEAR_END = 60; // pixels from the end of the talk at which the page still follows it
const find = (selector) => document.querySelector(selector);

const message = find("#message");
const log = find("#log");
const keys = new Keys(() => (find("#forget-key").hidden = !keys.value));
const server = new Server(keys);
const connection = new Problem(find("#connection"), connect);
const setup = new Setup(render);
const conversation = new Conversation(server, find("#talk"), { announce, changed: render, edit });

let following = true; // the end of the talk, while it grows
let lastTop = 0;
let connecting = null; // the promise, while the server is asked

/** Ask the server what it has to offer; once, however often this is called meanwhile. */
function connect() {
  connecting ??= ask().finally(() => (connecting = null));
  return connecting;
}

async function ask() {
  connection.show(null);
  try {
    const models = await server.models();
    const personas = await server.personas();
    renderRecords(await server.version());
    setup.offer(models, personas);
    if (!models.length) connection.show({ message: "This server has no model to talk to.", wait: 0 });
  } catch (error) {
    connection.show(error);
  }
  render();
}

function render() {
  const { exchanges } = conversation.talk;
  const persona = setup.persona;
  const other = conversation.isOther(persona);
  find("#welcome").hidden = exchanges.length > 0 || !setup.ready;
  find("#persona-note").textContent = other ? "Your next message begins a new talk: the persona is another." : "";
  find("#persona-back").hidden = !other;
  find("#subject").textContent = setup.personaName || setup.model;
  renderWelcome(persona);
  renderExport(conversation.talks.length);
  find("#composer").classList.toggle("replying", conversation.replying);
  find("#send").setAttribute("aria-label", conversation.replying ? "Stop" : "Send");
  for (const button of document.querySelectorAll("[data-do=new-talk]")) button.disabled = exchanges.length === 0;
}

function renderWelcome(persona) {
  const count = setup.numPrompts;
  find("#welcome-name").textContent = setup.personaName || (persona.length ? "a persona of your own" : setup.model);
  find("#welcome-persona").hidden = persona.length === 0;
  find("#welcome-persona").textContent = persona.join(" ");
  find("#welcome-how").textContent =
    count > 1
      ? `One of ${count} prompts speaks each reply. The bars below a reply show how well each of them fits; choose a bar to read what that prompt would have said.`
      : "";
}

/** Say what becomes of what is written here, where it is written. */
function renderRecords({ records, retention_days: days }) {
  const time = days ? `for ${days} ${days === 1 ? "day" : "days"}` : "without a time limit";
  find("#records").textContent = records ? `This server keeps talks and ratings ${time}.` : "This server keeps no talks.";
}

function renderExport(count) {
  find("#export").disabled = count === 0;
  find("#export").textContent = count > 1 ? `Export ${count} talks` : "Export";
}

/** Say `text`, as soon as the server has told what it offers; where it cannot, the text stays to be sent again. */
async function send(text) {
  if (!setup.ready) await connect();
  if (!setup.ready || conversation.replying) return;
  if (message.value.trim() === text) message.value = "";
  following = true;
  const { model, persona, choice, decoding } = setup;
  await conversation.say(text, { model, persona, choice, decoding });
}

function submit() {
  if (conversation.replying) conversation.stop();
  else if (message.value.trim()) send(message.value.trim());
  message.focus();
}

function edit(text) {
  message.value = text;
  message.focus();
}

/** Tell those who listen to the page rather than look at it. */
function announce(text) {
  find("#status").textContent = text;
}

function follow() {
  if (following) log.scrollTop = log.scrollHeight;
}

find("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!conversation.replying) submit(); // Enter writes; only the button and Escape stop a reply
});
document.addEventListener("keydown", (event) => {
  const above = find(":modal, :popover-open"); // which Escape closes
  if (event.key === "Escape" && !above) conversation.stop();
});
for (const opener of document.querySelectorAll(".opener")) {
  opener.addEventListener("click", () => {
    send(opener.textContent);
    message.focus();
  });
}
for (const button of document.querySelectorAll("[data-do=new-talk]")) {
  button.addEventListener("click", () => {
    conversation.begin(setup.persona);
    announce("A new talk. The one before is kept for the export.");
    message.focus();
  });
}
find("#persona-back").addEventListener("click", () => (setup.persona = conversation.talk.persona));
find("#export").addEventListener("click", () => {
  download(`talks-${new Date().toISOString().slice(0, 10)}.jsonl`, jsonLines(conversation.talks));
});
find("#forget-key").addEventListener("click", () => keys.forget());
log.addEventListener("scroll", () => {
  const left = log.scrollHeight - log.scrollTop - log.clientHeight;
  if (left < NEAR_END) following = true;
  else if (log.scrollTop < lastTop) following = false; // the person went back; a talk that grew is not that
  lastTop = log.scrollTop;
});
new ResizeObserver(follow).observe(find("#column"));

find("#forget-key").hidden = !keys.value;
connect();
