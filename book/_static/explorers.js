/* The book's own script: views over data that stands in the page (src/decoupled_esc/present/explorers.py and stepper.py), and
   tab stops where a box scrolls.  Text of the data is only ever set as text, never as markup. */
(() => {
  "use strict";

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const button = (text, pressed) => {
    const element = make("button", { type: "button", class: "explorer-button" }, text);
    element.addEventListener("click", pressed);
    return element;
  };

  /* Labelled fields above a view; `changed` is called at each change.  fields: name -> [label, [value, text]...], or [label] for a search. */
  const filters = (fields, changed) => {
    const form = make("form", { class: "explorer-filters" });
    const inputs = {};
    for (const [name, [label, ...options]] of Object.entries(fields)) {
      const choices = [["", "any"], ...options].map(([value, text]) => make("option", { value }, text));
      inputs[name] = options.length ? make("select", { name }, ...choices) : make("input", { name, type: "search" });
      inputs[name].addEventListener("input", changed);
      form.append(make("label", {}, label, inputs[name]));
    }
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(changed));
    form.append(make("button", { type: "reset", class: "explorer-button" }, "Reset"));
    return [form, (name) => inputs[name].value];
  };

  /* A table whose lines become blocks on a phone, each cell under its label. */
  const table = (heads, lines, caption) => {
    const cell = (content, place) => {
      const tag = place ? "td" : "th";
      const made = content instanceof Node ? content : make(tag, {}, String(content));
      if (!place) made.setAttribute("scope", "row");
      made.dataset.label = heads[place];
      return made;
    };
    const top = make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)));
    const rows = lines.map((line) => make("tr", {}, ...line.map(cell)));
    const parts = [make("caption", {}, caption), make("thead", {}, top), make("tbody", {}, ...rows)];
    return make("table", { class: "plain-table explorer-table" }, ...parts);
  };

  const numbered = (texts) => texts.map((text, place) => [String(place), text]);
  const same = (texts) => [...new Set(texts)].filter(Boolean).map((text) => [text, text]);

  const replies = (box, { systems, strategies, turns }) => {
    const names = strategies.map(([name]) => name);
    const said = (place) => (place < 0 ? "none of the eight" : names[place]);
    const view = make("div");
    const status = make("span", { role: "status" });
    const turn = make("select", { "aria-label": "Turn" });
    let shown = turns;

    const row = ([strategy, reply, shares], system, gold) => {
      const agrees = strategy === gold;
      const sign = make("span", { class: agrees ? "explorer-good" : "explorer-bad" }, agrees ? "= gold " : "≠ gold ");
      const most = Math.max(...shares);
      const bars = strategies.map(([, short], place) => {
        const made = make("td", { class: "explorer-share" }, shares.length ? String(shares[place]) : "–");
        made.style.setProperty("--share", `${shares[place] || 0}%`);
        made.classList.toggle("explorer-most", shares.length > 0 && shares[place] === most);
        made.classList.toggle("explorer-gold", place === gold);
        return made;
      });
      return [systems[system], make("td", {}, sign, said(strategy)), make("td", { class: "explorer-reply" }, reply || "(empty)"), ...bars];
    };
    const show = () => {
      const one = shown[turn.selectedIndex];
      view.replaceChildren();
      before.disabled = turn.selectedIndex < 1;
      after.disabled = turn.selectedIndex >= shown.length - 1;
      if (!one) return;
      const [id, gold, place, length, stage, found] = one;
      const caption = `Turn ${id}: supporter turn ${place} of ${length}, stage ${stage} (0 to 5); gold strategy: ${names[gold]}. ` +
        "Generated replies, research output; numbers are the probabilities of the strategies in per cent.";
      const heads = ["system", "strategy", "reply", ...strategies.map(([, short]) => short)];
      view.append(table(heads, found.map((reply, system) => row(reply, system, gold)), caption));
    };
    const step = (by) => () => {
      turn.selectedIndex += by;
      show();
    };
    const [before, after] = [button("Previous", step(-1)), button("Next", step(1))];
    const fields = {
      system: ["System", ...numbered(systems)],
      strategy: ["Its strategy", ...numbered(names), ["-1", said(-1)]],
      agrees: ["Its strategy and gold", ["yes", "agree"], ["no", "differ"]],
      gold: ["Gold strategy", ...numbered(names)],
      differ: ["Among all systems", ["yes", "strategies differ"], ["no", "one strategy"]],
    };
    const [form, value] = filters(fields, () => {
      const fits = ([strategy], system, gold) =>
        ["", String(system)].includes(value("system")) &&
        ["", String(strategy)].includes(value("strategy")) &&
        ["", strategy === gold ? "yes" : "no"].includes(value("agrees"));
      shown = turns.filter(([, gold, , , , found]) =>
        ["", String(gold)].includes(value("gold")) &&
        ["", new Set(found.map(([strategy]) => strategy)).size > 1 ? "yes" : "no"].includes(value("differ")) &&
        found.some((reply, system) => fits(reply, system, gold)));
      turn.replaceChildren(...shown.map(([id]) => make("option", {}, id)));
      turn.disabled = !shown.length;
      status.textContent = `${shown.length} of ${turns.length} turns`;
      show();
    });
    turn.addEventListener("change", show);
    box.replaceChildren(form, make("div", { class: "explorer-bar" }, before, turn, after, status), view);
    form.reset();
  };

  const COLUMNS = ["paper", "table", "backbone", "row", "metric", "reported", "ours", "low", "high", "verdict", "direction", "reason", "others"];

  const report = (box, { signs, why, tables }) => {
    const cells = tables.flatMap(([paper, name, , lines]) =>
      lines.map(([backbone, row, metric, reported, ours, low, high, verdict, direction, reason, others = ""]) => ({
        paper, table: name, backbone, row, metric, reported, ours, low, high, verdict, direction, reason: why[reason] || "", others,
      })));
    const status = make("span", { role: "status" });
    const said = make("p", { class: "explorer-said" });
    const tiles = make("div", { class: "explorer-tiles", role: "group", "aria-label": "Cells of the papers; arrow keys go from one to the next" });
    const rows = make("details", {}, make("summary", {}, "The same cells as a table"));
    let shown = cells;

    const where = (cell) => [cell.table, cell.backbone, cell.row, cell.metric].filter(Boolean).join(" · ");
    const ours = (cell) => (cell.ours || "–") + (cell.low && ` [${cell.low}, ${cell.high}]`);
    const found = (cell) => cell.verdict + (cell.direction && cell.direction !== cell.verdict ? `, direction: ${cell.direction}` : "");
    const sentence = (cell) => `${where(cell)}: reported ${cell.reported}, ours ${ours(cell)}; ${found(cell)}${cell.others && `; ${cell.others}`}`;
    const choose = (tile) => {
      tiles.querySelectorAll("[tabindex='0']").forEach((other) => other.setAttribute("tabindex", "-1"));
      tile.setAttribute("tabindex", "0");
    };
    for (const cell of cells) {
      const direction = cell.direction && cell.direction !== cell.verdict ? signs[cell.direction] : "";
      const attributes = { type: "button", tabindex: "-1", "data-verdict": cell.verdict, "aria-label": sentence(cell) };
      cell.tile = make("button", attributes, signs[cell.verdict] + direction);
      cell.text = Object.values(cell).filter((part) => typeof part === "string").join(" ").toLowerCase();
      const tell = () => {
        choose(cell.tile);
        said.textContent = `${sentence(cell)}.${cell.reason ? ` Why: ${cell.reason}.` : ""}`;
      };
      cell.tile.addEventListener("focus", tell);
      cell.tile.addEventListener("mouseenter", tell);
    }
    const groups = tables.map(([, name, title]) => {
      const own = cells.filter((cell) => cell.table === name).map((cell) => cell.tile);
      const group = make("div", {}, make("p", {}, make("b", {}, name), ` ${title}`), make("div", {}, ...own));
      tiles.append(group);
      return [group, own];
    });

    tiles.addEventListener("keydown", (event) => {
      const all = shown.map((cell) => cell.tile);
      const at = all.indexOf(document.activeElement);
      const here = at < 0 ? null : all[at].getBoundingClientRect();
      const off = (tile) => tile.getBoundingClientRect().top - here.top;
      const line = (way) => {  // the tile next above or below
        const beyond = all.filter((tile) => way * off(tile) > 4);
        const near = Math.min(...beyond.map((tile) => way * off(tile)));
        const left = (tile) => Math.abs(tile.getBoundingClientRect().left - here.left);
        return beyond.filter((tile) => way * off(tile) < near + 4).sort((one, other) => left(one) - left(other))[0];
      };
      const keys = {
        ArrowRight: () => all[at + 1], ArrowLeft: () => all[at - 1], Home: () => all[0], End: () => all.at(-1),
        ArrowDown: () => line(1), ArrowUp: () => line(-1),
      };
      if (!here || !keys[event.key]) return;
      event.preventDefault();
      keys[event.key]()?.focus();
    });

    const list = () => {
      rows.querySelector("table")?.remove();
      if (!rows.open) return;
      const lines = shown.map((cell) => [where(cell), cell.reported, ours(cell), `${signs[cell.verdict]} ${found(cell)}`, cell.reason || "–", cell.others || "–"]);
      rows.append(table(["cell", "reported", "ours", "verdict", "reason", "other backbones"], lines, `${shown.length} cells; brackets: 95% intervals.`));
    };
    const save = () => {
      const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
      const lines = [COLUMNS, ...shown.map((cell) => COLUMNS.map((name) => cell[name]))];
      const csv = lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
      const address = URL.createObjectURL(new Blob([csv], { type: "text/csv" }));
      make("a", { href: address, download: "cells.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    };
    const fields = {};
    for (const name of ["paper", "table", "metric", "backbone", "verdict"]) {
      fields[name] = [name[0].toUpperCase() + name.slice(1), ...same(cells.map((cell) => cell[name]))];
    }
    const [form, value] = filters({ ...fields, words: ["Words"] }, () => {
      const words = value("words").toLowerCase().split(/\s+/);
      const fits = (cell) => Object.keys(fields).every((name) => ["", cell[name]].includes(value(name)));
      shown = cells.filter((cell) => fits(cell) && words.every((word) => cell.text.includes(word)));
      const kept = new Set(shown.map((cell) => cell.tile));
      for (const cell of cells) cell.tile.hidden = !kept.has(cell.tile);
      for (const [group, own] of groups) group.hidden = own.every((tile) => tile.hidden);
      if (shown.length) choose(shown[0].tile);
      status.textContent = `${shown.length} of ${cells.length} cells`;
      said.textContent = "Point at a cell, or go to it with the arrow keys, to read it here.";
      list();
    });
    rows.addEventListener("toggle", list);
    const legend = Object.entries(signs).map(([verdict, sign]) => `${sign} ${verdict}`).join("; ");
    const bar = make("div", { class: "explorer-bar" }, status, button("Save as CSV", save));
    box.replaceChildren(form, bar, make("p", { class: "explorer-legend" }, `${legend}.`), tiles, said, rows);
    form.reset();
  };

  /* The drawing and the table of all steps are in the page; a step says which nodes are there, with which numbers, and which are marked. */
  const search = (box, { steps }) => {
    const groups = [...box.querySelectorAll("svg g")];
    const said = make("p", { class: "explorer-said", "aria-live": "polite" });
    const slider = make("input", { type: "range", min: "0", max: String(steps.length - 1), value: "0", "aria-label": "Step" });
    const show = () => {
      const [title, text, nodes, marked] = steps[slider.value];
      for (const group of groups) group.setAttribute("display", "none");
      for (const [place, numbers, compared] of nodes) {
        const texts = groups[place].querySelectorAll("text");
        groups[place].removeAttribute("display");
        groups[place].classList.toggle("explorer-marked", marked.includes(place));
        [texts[1].textContent, texts[2].textContent] = [numbers, compared];
      }
      said.replaceChildren(make("b", {}, `${title}. `), text);
      before.disabled = slider.value === slider.min;
      after.disabled = slider.value === slider.max;
    };
    const go = (by) => () => {
      slider.value = String(Number(slider.value) + by);
      show();
    };
    const [before, after] = [button("Previous", go(-1)), button("Next", go(1))];
    slider.addEventListener("input", show);
    box.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by && event.target !== slider) go(by)();  // the slider does so by itself
    });
    box.prepend(make("div", { class: "explorer-bar" }, before, slider, after), said);
    show();
  };

  /* Boxes that scroll sideways can be reached and moved by the keyboard. */
  const tabStops = () => {
    for (const box of document.querySelectorAll(".paper-table-wrap, .formula, .output.text_html, .bd-article figure")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };

  const views = { replies, report, search };
  for (const box of document.querySelectorAll("[data-explorer]")) {
    const data = JSON.parse(box.dataset.rows);
    box.removeAttribute("data-rows");
    views[box.dataset.explorer](box, data);
  }
  tabStops();
  addEventListener("resize", tabStops);
  document.addEventListener("toggle", tabStops, true);
})();
