// Responses: texts side by side, options with their log-probabilities, and judgments.

function responses(sample, asked, answers, runs, hits) {
  const many = runs.length > 1;
  const continuations = asked.map((request) => request?.continuations);
  const scored = answers.some((answer) => answer?.logprobs);
  if (scored && asked.length === 1) return options(sample, continuations[0] ?? [], answers, many);
  const texts = answers.map((answer) => (typeof answer?.text === "string" ? answer.text : null));
  const parted = many && texts.every((text) => text !== null) && texts[0] !== texts[1] ? commonStart(texts[0], texts[1]) : null;
  const columns = answers.map((answer, i) => {
    if (!answer) return el("div", {}, letter(i, many), el("p", { class: "muted" }, "no response"));
    if (answer.logprobs) return el("div", {}, letter(i, many), options(sample, continuations[i] ?? [], [answer], false));
    const { text, ...rest } = answer;
    return el(
      "div",
      {},
      many && el("p", {}, letter(i, many)),
      block(text, hits, { parted, label: many ? `Response of ${LETTERS[i]}` : "Response" }),
      settings(rest),
    );
  });
  const same = many && texts[0] !== null && texts[0] === texts[1];
  const note = same ? "Both responses are the same." : parted !== null && "Marked: from where the responses differ.";
  return el("div", {}, el("div", { class: "columns" }, columns), note && el("p", { class: "muted" }, note));
}

// Options scored by log-likelihood; probabilities are shares among these options, and none of a single one.
function options(sample, continuations, answers, many) {
  const letters = continuations.map((text) => String(text).trim());
  const place = (answer) => {
    const exact = letters.indexOf(String(answer).trim());
    if (exact >= 0) return exact;
    if (/^[A-Z]$/u.test(answer)) return answer.charCodeAt(0) - 65;
    return /^\d+$/u.test(answer) ? Number(answer) : -1;
  };
  const count = Math.max(continuations.length, ...answers.map((answer) => answer?.logprobs?.length ?? 0));
  const alone = count === 1;
  const right = alone ? -1 : place(sample.target);
  const shares = answers.map((answer) => {
    const logprobs = (answer?.logprobs ?? []).map(Number);
    const top = Math.max(...logprobs);
    const weights = logprobs.map((p) => Math.exp(p - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((w) => w / sum);
  });
  const chosen = shares.map((share) => share.indexOf(Math.max(...share)));
  const rows = Array.from({ length: count }, (_, k) => {
    const text = String(continuations[k] ?? "");
    const own = sample.doc && typeof sample.doc === "object" ? sample.doc[letters[k]] : null;
    return el(
      "tr",
      { class: k === right ? "gold" : null },
      el(
        "th",
        { scope: "row" },
        el("bdi", {}, brief(text)),
        typeof own === "string" && el("span", { class: "option" }, oneLine(own, 300)),
        k === right && el("span", { class: "tag" }, "right answer"),
      ),
      answers.flatMap((answer, i) => {
        const part = shares[i][k];
        if (part === undefined) return alone ? [el("td", {})] : [el("td", {}), el("td", {})];
        return [
          !alone &&
            el(
              "td",
              { class: "share" },
              share(part, `run-${LETTERS[i]}`),
              `${(100 * part).toFixed(1)}%`,
              k === chosen[i] && el("span", { class: "tag" }, "likeliest"),
            ),
          el(
            "td",
            { class: "number" },
            Number(answer.logprobs[k]).toFixed(3),
            answer.is_greedy?.[k] && el("span", { class: "tag" }, "greedy"),
          ),
        ];
      }),
    );
  });
  const heads = answers.flatMap((_, i) => [
    !alone && el("th", { scope: "col" }, letter(i, many), "Share of the options"),
    el("th", { scope: "col", class: "number" }, letter(i, many), "Log-probability"),
  ]);
  const flaws = answers.flatMap((answer, i) =>
    ["truncated", "merged"].filter((what) => answer?.[what]).map((what) => `${many ? `${LETTERS[i]}: ` : ""}${what} ${answer[what]}`),
  );
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Options and their log-probabilities" },
    el("table", { class: "options" }, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Option"), heads)), el("tbody", {}, rows)),
    flaws.length > 0 && el("p", { class: "notice" }, flaws.join("; ")),
  );
}

// The judgments of the responses, if there are any.
function judgments(sample, runs, hits) {
  if (!sample.runs.some((run) => run?.judgments?.length)) return null;
  const columns = sample.runs.map((run, i) =>
    el(
      "div",
      {},
      runs.length > 1 && el("p", {}, letter(i, true)),
      (run?.judgments ?? []).map(({ judgment, ...facts }) =>
        el("div", { class: "message" }, settings(facts), block(judgment, hits, { label: "Judgment" })),
      ),
    ),
  );
  return el("section", {}, el("h3", {}, "Judgments"), el("div", { class: "columns" }, columns));
}
