"use strict";
// The transcript browser. Everything a model wrote is set as textContent.
(() => {
  const { texts, steps, left_out: leftOut } = JSON.parse(document.getElementById("run-data").textContent).transcripts;
  const get = (id) => document.getElementById(id);
  const place = get("transcript"), stepBox = get("step"), episodeBox = get("episode"), refusedBox = get("refused");
  const COLORS = 6;

  const node = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + String(+Math.abs(value).toPrecision(3));
  const refused = (episode) => episode.turns.some((turn) => turn.refusal !== null);
  const returnsOf = (episode) => Object.entries(episode.returns)
    .map(([role, value]) => `${role.replace("_", " ")} ${value === null ? "?" : signed(value)}`).join(", ");

  // Length of the text that all prompts of the episode begin with, cut at a line's start.
  const sharedLength = (prompts) => {
    if (prompts.length < 2) return 0;
    let n = Math.min(...prompts.map((p) => p.length));
    for (const prompt of prompts) {
      let k = 0;
      while (k < n && prompt[k] === prompts[0][k]) k++;
      n = k;
    }
    return prompts[0].lastIndexOf("\n", n - 1) + 1;
  };

  const promptView = (prompt, shared, open) => {
    const details = node("details");
    details.open = open;
    details.append(node("summary", "", "prompt"));
    const pre = node("pre", "prompt");
    pre.append(node("span", "same", prompt.slice(0, shared)), node("span", "", prompt.slice(shared)));
    details.append(pre);
    return details;
  };

  const reasoningView = (text) => {
    const details = node("details", "reasoning");
    details.append(node("summary", "", "reasoning (hidden from the others)"), node("pre", "", text));
    return details;
  };

  const turnView = (turn, number, roles, shared) => {
    const card = node("article", `turn c${roles.indexOf(turn.role) % COLORS}`);
    const head = node("div", "turn-head");
    head.append(node("span", "role", `${number}. ${turn.role.replace("_", " ")}`));
    if (turn.action !== null) head.append(node("span", "chip", `plays ${texts[turn.action]}`));
    if (turn.refusal !== null) head.append(node("span", "chip refusal", `refused: ${texts[turn.refusal]}`));
    if (turn.reward) head.append(node("span", "chip plain", `reward ${signed(turn.reward)}`));
    if (turn.advantage !== null) head.append(node("span", "chip plain", `advantage ${signed(turn.advantage)}`));
    card.append(head, promptView(texts[turn.prompt], shared, number === 1));
    if (turn.reasoning !== null) card.append(reasoningView(texts[turn.reasoning]));
    card.append(node("pre", "reply", texts[turn.reply]));
    return card;
  };

  const candidates = () => {
    const step = steps[stepBox.selectedIndex];
    const numbered = step.episodes.map((episode, i) => ({ episode, i }));
    return refusedBox.checked ? numbered.filter(({ episode }) => refused(episode)) : numbered;
  };
  const show = () => {
    const listed = candidates(), chosen = listed[episodeBox.selectedIndex];
    place.replaceChildren();
    get("step-back").disabled = stepBox.selectedIndex <= 0;
    get("step-on").disabled = stepBox.selectedIndex >= steps.length - 1;
    get("episode-back").disabled = episodeBox.selectedIndex <= 0;
    get("episode-on").disabled = episodeBox.selectedIndex >= listed.length - 1;
    if (!chosen) {
      place.append(node("p", "empty", refusedBox.checked ? "No refused reply among this step's transcripts." : "No transcripts of this step."));
      return;
    }
    const { episode } = chosen;
    const about = [episode.game, episode.options, episode.seed === null ? "" : `seed ${episode.seed}`, `returns: ${returnsOf(episode)}`];
    place.append(node("p", "summary", about.filter(Boolean).join(" · ")));
    const roles = [...new Set([...Object.keys(episode.returns), ...episode.turns.map((turn) => turn.role)])];
    const shared = sharedLength(episode.turns.map((turn) => texts[turn.prompt]));
    episode.turns.forEach((turn, i) => place.append(turnView(turn, i + 1, roles, shared)));
  };
  const fillEpisodes = () => {
    const before = episodeBox.selectedIndex;
    episodeBox.replaceChildren(...candidates().map(({ episode, i }) =>
      node("option", "", `${i + 1}: ${episode.game} (${returnsOf(episode)})${refused(episode) ? " refused" : ""}`)));
    episodeBox.selectedIndex = Math.min(Math.max(before, 0), episodeBox.length - 1);
    show();
  };
  const move = (box, by, then) => () => {
    box.selectedIndex = Math.min(Math.max(box.selectedIndex + by, 0), box.length - 1);
    then();
  };

  if (!steps.length) {
    get("transcript-bar").hidden = true;
    get("transcript-bar").style.display = "none";
    place.append(node("p", "empty", "This run has no transcripts."));
    return;
  }
  stepBox.replaceChildren(...steps.map(({ step }) => node("option", "", String(step))));
  stepBox.selectedIndex = steps.length - 1;
  if (leftOut > 0) get("transcript-bar").append(node("span", "hint", `${leftOut} more steps in the run's episodes folder`));
  stepBox.addEventListener("change", fillEpisodes);
  episodeBox.addEventListener("change", show);
  refusedBox.addEventListener("change", fillEpisodes);
  get("step-back").addEventListener("click", move(stepBox, -1, fillEpisodes));
  get("step-on").addEventListener("click", move(stepBox, 1, fillEpisodes));
  get("episode-back").addEventListener("click", move(episodeBox, -1, show));
  get("episode-on").addEventListener("click", move(episodeBox, 1, show));
  fillEpisodes();
})();
