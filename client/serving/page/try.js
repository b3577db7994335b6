"use strict";
// Asks the server that this page came from. Whatever it says becomes text, never markup.
(() => {
  const at = (id) => document.getElementById(id);

  function make(tag, text, name) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name) made.className = name;
    return made;
  }

  function headers() {
    const token = at("token");
    return token && token.value ? { Authorization: `Bearer ${token.value}` } : {};
  }

  const percent = (score) => `${(100 * score).toFixed(1)} %`;

  // A text with its entities in it; places count characters as Python does, so that an emoji is one.
  function marked(text, entities) {
    const letters = Array.from(text);
    const box = make("p", "", "marked");
    let done = 0;
    for (const { start, end, entity_group: kind, score } of entities) {
      box.append(letters.slice(done, start).join(""));
      const mark = make("mark", letters.slice(start, end).join(""));
      mark.append(make("small", `${kind} ${percent(score)}`));
      box.append(mark);
      done = end;
    }
    box.append(letters.slice(done).join(""));
    return box;
  }

  function shown(answer, text) {
    const entities = Array.isArray(answer) && answer.every((one) => "entity_group" in one);
    if (entities && answer.length) return marked(text, answer);
    if (entities || (Array.isArray(answer) && !answer.length)) return make("p", "Nothing was found.", "hint");
    if (!Array.isArray(answer) && "label" in answer) return make("p", `${answer.label}, ${percent(answer.score)}`);
    if (!Array.isArray(answer) && "answer" in answer) return make("p", `${answer.answer || "No answer"}, ${percent(answer.score)}`);
    return make("pre", JSON.stringify(answer, null, 2));
  }

  function tell(answers, text) {
    const parts = Object.entries(answers).map(([task, answer]) => {
      const part = document.createElement("section");
      part.append(make("h3", task), shown(answer, text));
      return part;
    });
    at("found").replaceChildren(...parts);
  }

  async function ask(event) {
    event.preventDefault();
    const task = at("task").value;
    const text = at("text").value;
    const second = at("second").value;
    const inputs = second ? { text, text_pair: second } : text;
    const started = performance.now();
    at("answers").hidden = false;
    at("wrong").textContent = at("took").textContent = "";
    at("found").replaceChildren();
    try {
      const answer = await fetch(task ? `/v1/predict/${encodeURIComponent(task)}` : "/v1/predict", {
        method: "POST",
        headers: { "Content-Type": "application/json", ...headers() },
        body: JSON.stringify({ inputs }),
      });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.error);
      tell(task ? { [task]: found } : found, text);
      at("took").textContent = `${Math.round(performance.now() - started)} ms`;
    } catch (error) {
      at("wrong").textContent = error.message;
    }
  }

  async function learn() {
    const answer = await fetch("/v1/tasks", { headers: headers() });
    if (!answer.ok) return;
    const known = new Set(Array.from(at("task").options, (option) => option.value));
    for (const [name, { type }] of Object.entries(await answer.json())) {
      if (known.has(name)) continue;
      const option = make("option", `${name} (${type})`);
      option.value = name;
      at("task").append(option);
    }
  }

  at("ask").addEventListener("submit", ask);
  at("token")?.addEventListener("change", learn);
})();
