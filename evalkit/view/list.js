// The list of matching samples, a page at a time, and moving through it.

function row(sample) {
  const marks = sample.runs.map((run) => run?.verdict ?? "none");
  const words = sample.runs.map((run, i) => (many ? `${LETTERS[i]} ` : "") + (run ? VERDICTS[run.verdict] : "absent")).join(", ");
  const failed = sample.failed ? ", extraction failed" : "";
  const answers = sample.runs.map((run) => (run ? oneLine(run.extracted, 24) || "\u2205" : "-"));
  const said = many && answers[0] !== answers[1] ? answers.join(" \u2192 ") : answers[0];
  const doc = sample.doc ?? {};
  const question = typeof doc.question === "string" ? doc.question : asked(sample);
  return el(
    "li",
    {},
    el(
      "a",
      {
        href: address({ sample: sample.key, page: String(pageNumber()) }),
        "data-key": sample.key,
        onclick: choose,
        "aria-current": sample.key === state.sample ? "true" : null,
      },
      el(
        "span",
        { class: "marks", "aria-hidden": "true" },
        marks.map((verdict) => el("span", { class: `mark ${verdict}` }, SIGNS[verdict])),
      ),
      el("span", { class: "visually-hidden" }, `${words}${failed}: `),
      el("bdi", { class: "id" }, plain(sample.id)),
      el("bdi", { class: "said" }, said),
      el("bdi", { class: "snippet" }, oneLine(question)),
    ),
  );
}

// The sample's own words in its first request.
function asked(sample) {
  const request = requestsOf(sample, 0)[0] ?? requestsOf(sample, 1)[0] ?? {};
  const message = request.messages?.at(-1);
  return request.context ? split(request.context, null)[1] : (message?.[1] ?? message?.content ?? "");
}

function showList() {
  const samples = shown();
  const of = data.samples.length.toLocaleString("en");
  $("count").textContent =
    found.matching.length === data.samples.length ? `${of} samples` : `${found.matching.length.toLocaleString("en")} of ${of} samples`;
  $("page").textContent = `${pageNumber().toLocaleString("en")} of ${pages().toLocaleString("en")}`;
  $("page-before").disabled = pageNumber() === 1;
  $("page-after").disabled = pageNumber() === pages();
  const key = samples.map((sample) => sample.key).join("\n") + address({ sample: "" });
  if ($("list").dataset.key !== key) {
    $("list").replaceChildren(...samples.map(row));
    $("list").start = (pageNumber() - 1) * PAGE + 1;
    $("list").dataset.key = key;
    $("list").scrollTop = 0;
  }
  for (const link of $("list").querySelectorAll("a")) {
    if (link.dataset.key !== state.sample) link.removeAttribute("aria-current");
    else {
      link.setAttribute("aria-current", "true");
      link.scrollIntoView({ block: "nearest" });
    }
  }
  if (!samples.length)
    $("list").replaceChildren(
      el("li", { class: "none" }, "No sample matches. ", el("button", { type: "button", onclick: clear }, "Clear filters")),
    );
}

function link(key) {
  return [...$("list").querySelectorAll("a")].find((each) => each.dataset.key === key);
}

function choose(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  go({ sample: event.currentTarget.dataset.key, page: String(pageNumber()) }, { push: narrow.matches });
  if (event.detail === 0 || narrow.matches) $("title")?.focus();
}

function step(by) {
  const at = found.matching.indexOf(byKey.get(state.sample));
  const next = at < 0 ? shown()[0] : found.matching[at + by];
  if (!next) return;
  go({ sample: next.key, page: pageOf(next) });
  if (narrow.matches) $("title")?.focus();
  else link(next.key)?.focus();
}

function turn(by) {
  go({ page: String(pageNumber() + by), sample: "" });
  $("list").querySelector("a")?.scrollIntoView({ block: "nearest" });
}

function clear() {
  go({ ...EMPTY });
  $("search").focus();
}
