// The sample browser of a report. Model output is inserted as text, never as markup.
"use strict";
(async () => {
  const packed = document.getElementById("responses");
  if (!packed || typeof DecompressionStream !== "function") return;

  // --- data: columns of queries (Q) and responses (R), si/report/samples.py ------------------------
  const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const { levels, opening, images, queries: Q, responses: R } = await new Response(stream).json();
  const every = R.query.map((_, i) => i);
  const HOW = {
    first: "first round",
    plain: "second round, plain",
    guided: "second round, guided",
    greedy: "greedy, held out",
    sampled: "sampled, held out",
  };
  const METHODS = {
    exact: "same text",
    number: "as numbers",
    choice: "as choices",
    math: "with math-verify",
    timeout: "time limit reached",
    none: "no final answer found",
  };
  const ENDS = { stop: "end of turn", length: "token limit" };
  const idOf = (i) =>
    [R.t[i], R.how[i], Q.query_id[R.query[i]], R.prefix_id[i], R.sample[i]].join("/");
  const places = new Map(every.map((i) => [idOf(i), i]));
  const siblings = Q.query_id.map(() => []);
  every.forEach((i) => siblings[R.query[i]].push(i));
  const texts = [];
  const text = (i) => {
    const q = R.query[i];
    const parts = [R.given[i], R.text[i], "\n", R.extracted[i] ?? "", "\n", Q.question[q]];
    parts.push("\n", Q.answer[q], "\n", Q.family[q], "\n", Q.query_id[q]);
    return (texts[i] ??= parts.join("").toLowerCase());
  };

  // --- the page's parts ---------------------------------------------------------------------
  const [root, list, shown, found] = ["browser", "list", "shown", "found"].map((id) =>
    document.getElementById(id),
  );
  const form = root.querySelector("form");
  const fields = form.elements;
  const tall = list.firstElementChild;
  const ROW = 54; // pixels, as in the style sheet
  let matching = every;
  let at = 0; // the shown one's position in `matching`

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const count = (n) => n.toLocaleString("en");
  const verdict = (i) => (R.correct[i] ? "correct" : "incorrect");
  const sign = (i) => (R.correct[i] ? "✓" : "✗");
  const chip = (words, kind = "plain") => make("span", { class: `chip ${kind}` }, words);
  const levelChip = (level) => {
    const dot = make("i");
    if (levels.includes(level)) dot.style.background = `var(--${level})`;
    return make("span", { class: "chip level" }, dot, level);
  };

  // --- filters ------------------------------------------------------------------------------
  const choices = (name, values, words = {}) => {
    const [first] = fields[name].options;
    const options = values.map((value) => make("option", { value }, words[value] ?? String(value)));
    fields[name].replaceChildren(first, ...options);
  };
  const distinct = (values) => [...new Set(values)];
  choices("t", distinct(R.t).sort((a, b) => a - b));
  choices("how", Object.keys(HOW).filter((how) => R.how.includes(how)), HOW);
  choices("split", distinct(Q.split));
  choices("family", distinct(Q.family).sort());
  for (const box of fields.level) {
    const n = every.filter((i) => Q.level[R.query[i]] === box.value).length;
    box.nextElementSibling.append(make("small", {}, count(n)));
    box.disabled = n === 0;
  }
  const ONE = ["verdict", "t", "how", "split", "family", "used", "text"];

  const filters = () => {
    const levels = [...fields.level].filter((box) => box.checked).map((box) => box.value);
    return { level: levels, ...Object.fromEntries(ONE.map((name) => [name, fields[name].value])) };
  };
  const matcher = (f) => {
    const words = f.text.toLowerCase().split(/\s+/).filter(Boolean);
    return (i) =>
      (!f.level.length || f.level.includes(Q.level[R.query[i]])) &&
      (!f.verdict || verdict(i) === f.verdict) &&
      (!f.t || String(R.t[i]) === f.t) &&
      (!f.how || R.how[i] === f.how) &&
      (!f.split || Q.split[R.query[i]] === f.split) &&
      (!f.family || Q.family[R.query[i]] === f.family) &&
      (!f.used || R.copies[i] > 0 === (f.used === "yes")) &&
      words.every((word) => text(i).includes(word));
  };

  const apply = (wanted = matching[at]) => {
    matching = every.filter(matcher(filters()));
    const correct = matching.filter((i) => R.correct[i]).length;
    found.textContent = matching.length
      ? `${count(matching.length)} of ${count(every.length)} samples, ` +
        `${((100 * correct) / matching.length).toFixed(1)} % correct`
      : "No sample matches.";
    tall.style.height = `${matching.length * ROW}px`;
    show(Math.max(0, matching.indexOf(wanted)));
  };

  // --- the list: only the rows in sight are in the page ----------------------------------------
  const row = (position) => {
    const i = matching[position];
    const q = R.query[i];
    const says = `${HOW[R.how[i]]}, iteration ${R.t[i]}`;
    const used = R.copies[i] ? `trained on${R.copies[i] > 1 ? ` ×${R.copies[i]}` : ""}` : "";
    const element = make(
      "div",
      {
        role: "option",
        id: `row-${i}`,
        class: "row",
        "aria-selected": String(position === at),
        "aria-setsize": matching.length,
        "aria-posinset": position + 1,
      },
      make("span", { class: `sign ${verdict(i)}`, role: "img", "aria-label": verdict(i) }, sign(i)),
      make("span", { class: "asked" }, Q.question[q].slice(0, 200)),
      make("span", { class: "answer" }, (R.extracted[i] ?? "–").slice(0, 40)),
      levelChip(Q.level[q]),
      make("span", { class: "how" }, says),
      make("span", { class: "used" }, used),
    );
    element.style.top = `${position * ROW}px`;
    element.dataset.position = position;
    return element;
  };
  const draw = () => {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 3);
    const last = Math.min(matching.length, first + Math.ceil(list.clientHeight / ROW) + 6);
    const rows = [];
    for (let position = first; position < last; position++) rows.push(row(position));
    // The selected row stays, even out of sight: the list refers screen readers to it.
    if (matching.length && (at < first || at >= last)) rows.push(row(at));
    tall.replaceChildren(...rows);
    if (matching.length) list.setAttribute("aria-activedescendant", `row-${matching[at]}`);
    else list.removeAttribute("aria-activedescendant");
  };

  // --- one sample -----------------------------------------------------------------------------
  const fact = (name, ...value) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value));
  const trainedOn = (i) => {
    if (R.how[i] === "greedy" || R.how[i] === "sampled") return "never (held out)";
    if (!R.copies[i]) return "no";
    return R.copies[i] === 1 ? "once" : `${count(R.copies[i])} copies`;
  };
  const strip = (i) => {
    const groups = new Map();
    for (const j of siblings[R.query[i]]) {
      const name = `iteration ${R.t[j]}, ${HOW[R.how[j]]}`;
      groups.set(name, [...(groups.get(name) ?? []), j]);
    }
    const lines = [...groups].map(([name, members]) => {
      const buttons = members.map((j, n) => {
        const button = make(
          "button",
          { type: "button", class: verdict(j), "aria-label": `${name}, ${n + 1}: ${verdict(j)}` },
          sign(j),
        );
        if (j === i) button.setAttribute("aria-current", "true");
        button.addEventListener("click", () => open(j));
        return button;
      });
      return make("div", {}, make("span", {}, name), make("span", { class: "signs" }, ...buttons));
    });
    return make("div", { class: "strip" }, make("h3", {}, "All samples of this query"), ...lines);
  };
  const detail = (i) => {
    const q = R.query[i];
    const views = Q.images[q].map((place, n) =>
      make("img", { src: images[place], alt: `Image ${n + 1} of the query` }),
    );
    for (const view of views) {
      view.addEventListener("load", () =>
        view.classList.toggle("tiny", view.naturalWidth < 128),
      );
    }
    const missing = Q.images_left_out[q];
    const response = make("pre", {});
    if (R.given[i]) response.append(make("mark", {}, R.given[i]));
    response.append(R.text[i]);
    if (R.more[i]) response.append(`\n[... ${count(R.more[i])} more characters]`);
    const method = METHODS[R.method[i]];
    return [
      make(
        "div",
        { class: "chips" },
        chip(`${sign(i)} ${verdict(i)}`, verdict(i)),
        levelChip(Q.level[q]),
        chip(`iteration ${R.t[i]}`),
        chip(HOW[R.how[i]]),
        chip(Q.split[q]),
        chip(Q.family[q]),
        ...(Q.difficulty[q] ? [chip(`difficulty ${Q.difficulty[q]}`)] : []),
      ),
      make(
        "div",
        { class: "top" },
        ...views,
        make("p", { class: "question" }, Q.question[q]),
      ),
      ...(missing ? [make("p", { class: "note" }, `${count(missing)} images left out`)] : []),
      make(
        "h3",
        {},
        R.given[i]
          ? `Response; its first ${count(R.tokens_given[i])} tokens (marked) were given`
          : "Response",
      ),
      response,
      make(
        "dl",
        { class: "facts" },
        fact("Extracted", R.extracted[i] ?? "no answer"),
        fact("Reference", Q.answer[q]),
        fact("Compared", method ?? R.method[i]),
        fact("Trained on", trainedOn(i)),
        fact("Length", `${count(R.tokens[i])} tokens`),
        fact("Ended", ENDS[R.finish_reason[i]] ?? R.finish_reason[i]),
      ),
      strip(i),
      make(
        "p",
        { class: "note" },
        make("a", { href: `#samples?at=${encodeURIComponent(idOf(i))}` }, "Link to this sample"),
        ` · query ${Q.query_id[q]}`,
      ),
    ];
  };
  const show = (position) => {
    at = Math.max(0, Math.min(position, matching.length - 1));
    const top = at * ROW;
    const bottom = top + ROW - list.clientHeight;
    if (list.scrollTop > top) list.scrollTop = top;
    else if (list.scrollTop < bottom) list.scrollTop = bottom;
    draw();
    shown.replaceChildren(...(matching.length ? detail(matching[at]) : []));
    shown.scrollTop = 0;
    remember();
  };
  const clear = () => {
    for (const box of fields.level) box.checked = false;
    for (const name of ONE) fields[name].value = "";
  };
  const open = (i) => {
    if (!matching.includes(i)) clear();
    apply(i);
    list.focus({ preventScroll: true });
  };

  // --- addresses: filters and sample stand behind the # -------------------------------------
  let timer = 0;
  let started = false;
  const remember = () => {
    if (!started) return;
    clearTimeout(timer);
    timer = setTimeout(() => {
      const wanted = new URLSearchParams();
      for (const [name, value] of Object.entries(filters())) {
        if (value.length) wanted.set(name, value);
      }
      if (matching.length) wanted.set("at", idOf(matching[at]));
      history.replaceState(null, "", `#samples?${wanted}`);
    }, 250);
  };
  const follow = () => {
    if (!location.hash.startsWith("#samples?")) return false;
    const wanted = new URLSearchParams(location.hash.slice("#samples?".length));
    clear();
    const chosen = (wanted.get("level") ?? "").split(",");
    for (const box of fields.level) box.checked = chosen.includes(box.value);
    for (const name of ONE) fields[name].value = wanted.get(name) ?? "";
    const i = places.get(wanted.get("at"));
    apply(i);
    if (wanted.has("at") && i === undefined) {
      found.textContent += ". This page does not contain the linked sample.";
    }
    root.closest("section").scrollIntoView();
    return true;
  };

  // --- hands ----------------------------------------------------------------------------------
  form.addEventListener("change", () => apply());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  let typing = 0;
  fields.text.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(apply, 120);
  });
  list.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  list.addEventListener("click", (event) => {
    const clicked = event.target.closest(".row");
    if (clicked) show(Number(clicked.dataset.position));
  });
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const writing = event.target === fields.text;
    const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
    const inList = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page };
    const anywhere = { j: 1, k: -1 };
    let by = event.target === list ? inList[event.key] : undefined;
    if (!writing && event.target.tagName !== "SELECT") by ??= anywhere[event.key];
    if (by) show(at + by);
    else if (event.target === list && event.key === "Home") show(0);
    else if (event.target === list && event.key === "End") show(matching.length - 1);
    else if (event.key === "/" && !writing) fields.text.focus();
    else if (writing && event.key === "Enter") list.focus();
    else return;
    event.preventDefault();
  });
  new ResizeObserver(draw).observe(list);
  addEventListener("hashchange", follow);

  root.hidden = false;
  document.documentElement.classList.add("browsing");
  if (!follow()) apply(opening ?? undefined);
  started = true;
})();
