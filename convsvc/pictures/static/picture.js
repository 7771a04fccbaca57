// The picture of a checkpoint or a plan: files against layers, bytes a file, and the way from a tensor to its files and back.
"use strict";
(() => {
  const MOST = 300; // of a list that is shown at once
  const place = document.getElementById("picture");
  const inside = document.getElementById("picture-data");
  // What the page says, in the language of whoever has the page: names stay as they are.
  const words = JSON.parse(place.dataset.words || "{}");
  const tell = (text, values = {}) => (words[text] || text).replace(/\{(\w+)\}/g, (_, name) => values[name]);

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
      else made.setAttribute(name, value);
    }
    made.append(...children); // text stays text, whatever is in it
    return made;
  }

  const more = (count) => (count > MOST ? tell(", the first {most} of which are shown", { most: MOST }) : "");

  function bytes(count) {
    let unit = 0;
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
    return `${unit && count < 100 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
  }

  const fill = (template, numbers) => { let at = 0; return template.replace(/\{\}/g, () => numbers[at++]); };
  const span = (first, stop) => (stop - first === 1 ? String(first) : `${first}–${stop - 1}`);

  function show(data) {
    // Every tensor with its numbers, and the number of its place on each side.
    const tensors = [];
    for (const [template, axes, sizes, rows] of data.tensors) {
      const count = (template.match(/\{\}/g) || []).length;
      for (const row of rows) {
        for (let n = 0; n < row[count]; n += 1) {
          const numbers = row.slice(0, count);
          if (count) numbers[count - 1] += n;
          tensors.push({ template, axes, sizes, numbers, places: row.slice(count + 1), name: fill(template, numbers) });
        }
      }
    }
    const sets = data.sets.map((runs) => runs.flatMap(([first, step, count]) => Array.from({ length: count }, (_, n) => first + n * step)));
    const members = sets.map((files) => new Set(files));
    const storedName = (tensor, [name]) => {
      const [template, less] = data.names[name];
      return fill(template, less.map((offset, at) => (at < tensor.numbers.length ? tensor.numbers[at] - offset : -offset)));
    };
    const volume = (tensor) => tensor.sizes.reduce((all, size) => all * size, 1);
    // What a part has of an entry, in the entry's own coordinates; null where they do not meet.
    const slice = (entry, [, , box]) => {
      const [starts, stops, count, pieces] = data.boxes[box];
      const from = starts.map((start, axis) => Math.max(start, entry.starts[axis]) - entry.starts[axis]);
      const to = stops.map((stop, axis) => Math.min(stop, entry.stops[axis]) - entry.starts[axis]);
      if (from.some((start, axis) => start >= to[axis])) return null;
      const sizes = entry.stops.map((stop, axis) => stop - entry.starts[axis]);
      const cut = sizes.map((size, axis) => (to[axis] - from[axis] < size ? tell("{axis} {range} of {size}", { axis: entry.tensor.axes[axis], range: span(from[axis], to[axis]), size }) : "")).filter(Boolean);
      return `${cut.join(", ") || tell("whole")}${pieces > 1 ? ` (${tell("the box around {count} pieces, {percent} % of {name}", { count: pieces, percent: (100 * count / volume(entry.tensor)).toFixed(1), name: entry.tensor.name })})` : ""}`;
    };
    const rowName = (tensor) => (tensor.numbers.length ? fill(tensor.template.slice(0, tensor.template.indexOf("{}") + 2), tensor.numbers) : tensor.name);
    const rows = [...new Set(tensors.map(rowName))];
    const rowOf = new Map(rows.map((name, at) => [name, at]));

    // What is looked for and pressed: the tensors as Hugging Face has them, of which several may be one here, or one may be many.
    const named = Math.max(0, data.sides.findIndex((one) => one.format === "huggingface"));
    const entries = [];
    const entriesOf = new Map();
    for (const tensor of tensors) {
      const boxes = new Map();
      for (const part of data.places[tensor.places[named]]) {
        const name = storedName(tensor, part), [starts, stops] = data.boxes[part[2]];
        const before = boxes.get(name);
        if (before) {
          before.starts = before.starts.map((start, axis) => Math.min(start, starts[axis]));
          before.stops = before.stops.map((stop, axis) => Math.max(stop, stops[axis]));
        } else boxes.set(name, { tensor, name, starts: [...starts], stops: [...stops] });
      }
      if (!boxes.size) boxes.set(tensor.name, { tensor, name: tensor.name, starts: tensor.sizes.map(() => 0), stops: tensor.sizes });
      entriesOf.set(tensor, [...boxes.values()]);
      entries.push(...boxes.values());
    }

    place.append(element("h1", {}, data.title));
    const facts = element("dl", {});
    for (const [name, value] of Object.entries(data.facts)) facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
    place.append(facts);
    const detail = element("section", { "aria-live": "polite", id: "detail" });
    const views = data.sides.map((side, number) => sideView(side, number));
    place.append(...views.map((view) => view.section), element("div", { class: "two" }, finder(), detail));
    if (entries.length) showTensor(entries[0], false);

    function button(text, act) { return element("button", { type: "button", on: { click: act } }, text); }

    function finder() {
      const found = element("ul", { id: "found", tabindex: "0", "aria-label": tell("tensors that fit") });
      const said = element("p", { class: "hint", role: "status" });
      const asked = element("input", { id: "ask", type: "search", placeholder: "layers.3, experts.12, embed ...", spellcheck: "false", on: { input: look } });
      function look() {
        const words = asked.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
        const names = ({ tensor, name }) => [name, tensor.name, ...data.sides.map((_, side) => { const parts = data.places[tensor.places[side]]; return side !== named && parts.length ? storedName(tensor, parts[0]) : ""; })].join("\n").toLowerCase();
        const fits = words.length ? entries.filter((entry) => { const text = names(entry); return words.every((word) => text.includes(word)); }) : entries;
        said.textContent = tell("{count} tensors", { count: fits.length }) + more(fits.length);
        found.replaceChildren(...fits.slice(0, MOST).map((entry) => element("li", {}, button(entry.name, () => showTensor(entry)))));
      }
      const section = element("section", {}, element("h2", {}, tell("Tensors")), element("label", { for: "ask" }, tell("A tensor's name, or part of it, on either side")), asked, said, found);
      look();
      return section;
    }

    function showTensor(entry, comes = true) {
      const tensor = entry.tensor;
      const shown = element("div", {});
      data.sides.forEach((side, number) => {
        const parts = data.places[tensor.places[number]];
        const list = element("ul", { tabindex: "0", "aria-label": tell("files of {side}", { side: side.title }) });
        let count = 0;
        const into = new Set();
        for (const part of parts) {
          const had = slice(entry, part);
          if (had === null || (number === named && storedName(tensor, part) !== entry.name)) continue;
          for (const file of sets[part[1]]) {
            count += 1;
            into.add(file);
            if (count <= MOST) list.append(element("li", {}, button(side.files[file][0], () => showFile(number, file)), ` ${storedName(tensor, part)} `, element("span", { class: "hint" }, had)));
          }
        }
        shown.append(element("div", {}, element("h3", {}, tell("{side}: in {count} of {files} files", { side: side.title, count: into.size, files: side.files.length })), list));
        views[number].mark(into);
      });
      detail.replaceChildren(element("h2", { id: "chosen" }, entry.name), element("p", { class: "hint" }, tensor.axes.map((axis, at) => `${axis} ${entry.stops[at] - entry.starts[at]}`).join(", ")), shown);
      if (comes) detail.scrollIntoView({ block: "nearest" });
    }

    function showFile(number, file) {
      const side = data.sides[number];
      const inIt = [];
      const held = new Map(); // of each chunk: layers, and experts by the model's or a tensor's own number
      for (const tensor of tensors) {
        for (const part of data.places[tensor.places[number]]) {
          if (!members[part[1]].has(file)) continue;
          for (const entry of entriesOf.get(tensor)) {
            const had = slice(entry, part);
            if (had !== null && (number !== named || storedName(tensor, part) === entry.name)) inIt.push([entry, part, had]);
          }
          const [chunk, name] = storedName(tensor, part).split("/");
          const within = name === undefined ? "" : `${chunk}: `;
          const [prefix, ...more] = tensor.template.split("{}");
          if (tensor.numbers.length) note(held, within + prefix, [tensor.numbers[0]]);
          if (tensor.numbers.length > 1) note(held, `${within}${prefix}…${more[0]}`, [tensor.numbers[1]]);
          const axis = tensor.template.includes("experts") ? tensor.axes.findIndex((word) => /expert/.test(word)) : -1; // a router knows all of them
          if (axis >= 0) {
            const [starts, stops] = data.boxes[part[2]];
            note(held, `${within}${tell("experts")} `, Array.from({ length: stops[axis] - starts[axis] }, (_, n) => starts[axis] + n));
          }
        }
      }
      const said = [...held].map(([prefix, numbers]) => `${prefix}${ranges(numbers)}`);
      const list = element("ul", { tabindex: "0", "aria-label": tell("tensors of the file") });
      list.append(...inIt.slice(0, MOST).map(([entry, part, had]) => element("li", {}, button(entry.name, () => showTensor(entry)), ` ${storedName(entry.tensor, part)} `, element("span", { class: "hint" }, had))));
      detail.replaceChildren(
        element("h2", { id: "chosen" }, side.files[file][0]),
        element("p", {}, [side.title, views[number].rank(file), bytes(side.files[file][1]), tell("{count} parts of tensors", { count: inIt.length }) + more(inIt.length)].filter(Boolean).join(", ")),
        element("p", { id: "holds" }, said.join("; ")), list);
      views.forEach((view, at) => view.mark(new Set(at === number ? [file] : [])));
      detail.scrollIntoView({ block: "nearest" });
    }

    function note(found, name, numbers) { if (!found.has(name)) found.set(name, new Set()); for (const one of numbers) found.get(name).add(one); }

    function ranges(numbers) {
      const sorted = [...numbers].sort((one, other) => one - other);
      const texts = [];
      for (let at = 0; at < sorted.length;) {
        let stop = at + 1;
        while (stop < sorted.length && sorted[stop] === sorted[stop - 1] + 1) stop += 1;
        texts.push(span(sorted[at], sorted[stop - 1] + 1));
        at = stop;
      }
      return texts.join(", ");
    }

    function sideView(side, number) {
      const files = side.files.length;
      const sizes = side.files.map(([, size]) => size);
      const most = Math.max(...sizes), mean = sizes.reduce((all, size) => all + size, 0) / files;
      // What part of a layer a file has, by [layer][file], and what of that is whole tensors that other files have, too.
      const share = rows.map(() => new Float64Array(files)), shared = rows.map(() => new Float64Array(files)), all = new Float64Array(rows.length);
      for (const tensor of tensors) {
        const row = rowOf.get(rowName(tensor));
        all[row] += volume(tensor);
        for (const part of data.places[tensor.places[number]]) {
          const count = data.boxes[part[2]][2];
          for (const file of sets[part[1]]) {
            share[row][file] += count;
            if (sets[part[1]].length > 1) shared[row][file] += count;
          }
        }
      }
      let marked = new Set(), at = [0, 0];
      const bars = element("canvas", { class: "bars", role: "img", "aria-label": tell("bytes of each of {files} files: the largest {most}, {mean} on average", { files, most: bytes(most), mean: bytes(mean) }) });
      const grid = element("canvas", { id: `grid-${number}`, tabindex: "0", role: "application", "aria-label": tell("{files} files against {layers} layers; arrow keys choose, Enter shows the file", { files, layers: rows.length }) });
      const says = element("p", { class: "hint", role: "status", id: `says-${number}` }, tell("Choose a file with the mouse or the arrow keys."));
      const asked = element("input", { type: "search", id: `file-${number}`, spellcheck: "false", on: { input: look } });
      const found = element("ul", { tabindex: "0", "aria-label": tell("files of {side}", { side: side.title }) });
      function look() {
        const words = asked.value.trim().toLowerCase();
        const fits = side.files.map((file, n) => [file[0], n]).filter(([name]) => name.toLowerCase().includes(words));
        found.replaceChildren(...fits.slice(0, MOST).map(([name, n]) => element("li", {}, button(name, () => showFile(number, n)), " ", element("span", { class: "hint" }, bytes(sizes[n])))));
      }
      look();
      const uneven = mean ? most / mean : 1;
      const section = element("section", { "data-side": side.title }, element("h2", {}, `${side.title}: ${side.format}`), element("p", { class: "hint" }, side.path),
        element("p", { id: `balance-${number}` }, tell("Files: {files}, {all} together; the largest {most}, the smallest {least}: {times} times the average", { files, all: bytes(mean * files), most: bytes(most), least: bytes(Math.min(...sizes)), times: uneven.toFixed(2) })),
        bars, grid,
        element("p", { class: "hint" }, tell("Above: bytes of each file. Below: files from left to right, layers from top to bottom;"), element("span", { class: "key cut" }), tell("its own part"), element("span", { class: "key whole" }), tell("as other files have it, too. The stronger, the more of the layer.")),
        says, element("details", {}, element("summary", {}, tell("Files by name")), element("label", { for: `file-${number}` }, tell("A file's name, or part of it")), asked, found));

      // Which rank wrote a file: mp_rank_TENSOR_PIPELINE_EXPERT; where there are two numbers, the second is a stage if layers differ by it.
      const ranks = side.files.map(([name]) => ((/mp_rank_(\d+(?:_\d+)*)/.exec(name) || [])[1] || "").split("_").filter(Boolean).map(Number));
      const layersOf = (file) => rows.map((_, row) => (share[row][file] ? 1 : 0)).join("");
      const second = ranks.findIndex((rank) => rank.length === 2 && rank[0] === 0 && rank[1] === 1);
      const first = ranks.findIndex((rank) => rank.length === 2 && rank[0] === 0 && rank[1] === 0);
      const isStage = second >= 0 && first >= 0 && layersOf(first) !== layersOf(second);
      const axes = (rank) => (rank.length === 3 ? [tell("tensor rank"), tell("pipeline stage"), tell("expert rank")] : [tell("tensor rank"), isStage ? tell("pipeline stage") : tell("expert rank")]);
      const rankOf = (file) => ranks[file].map((number, at) => `${axes(ranks[file])[at]} ${number}`).join(", ");

      function paint() {
        const css = getComputedStyle(place), colour = (name) => css.getPropertyValue(name).trim();
        const scale = window.devicePixelRatio || 1, width = Math.max(1, grid.clientWidth);
        const height = Math.min(640, Math.max(48, rows.length * 10));
        for (const [canvas, tall] of [[bars, 90], [grid, height]]) {
          canvas.style.setProperty("height", `${tall}px`);
          canvas.width = width * scale;
          canvas.height = tall * scale;
        }
        const wide = bars.width / files;
        const up = bars.getContext("2d");
        sizes.forEach((size, file) => {
          up.fillStyle = colour(marked.has(file) ? "--mark" : "--part");
          const tall = most ? bars.height * size / most : 0;
          up.fillRect(file * wide, bars.height - tall, Math.max(1, wide - (wide > 4 ? 1 : 0)), tall);
        });
        const draw = grid.getContext("2d"), tall = grid.height / rows.length;
        rows.forEach((_, row) => {
          for (let file = 0; file < files; file += 1) {
            const part = share[row][file];
            if (!part) continue;
            draw.globalAlpha = 0.25 + 0.75 * Math.min(1, part / all[row]);
            draw.fillStyle = colour(shared[row][file] * 2 > part ? "--whole" : "--part");
            draw.fillRect(file * wide, row * tall, Math.max(1, wide - (wide > 4 ? 1 : 0)), Math.max(1, tall - (tall > 3 ? 1 : 0)));
          }
        });
        draw.globalAlpha = 1;
        draw.fillStyle = colour("--mark");
        for (const file of marked) draw.fillRect(file * wide, 0, Math.max(2, wide), 3 * scale);
        draw.strokeStyle = colour("--ink");
        draw.lineWidth = 2 * scale;
        draw.strokeRect(at[0] * wide, at[1] * tall, Math.max(3, wide), Math.max(3, tall));
      }

      function say() {
        const [file, row] = at, part = share[row][file];
        says.textContent = `${[side.files[file][0], rankOf(file), rows[row]].filter(Boolean).join(", ")}: ${part ? `${(100 * part / all[row]).toFixed(2)} %${shared[row][file] ? tell(", of which other files have a part, too") : ""}` : tell("nothing")}`;
        paint();
      }

      grid.addEventListener("click", (event) => {
        const box = grid.getBoundingClientRect();
        at = [Math.min(files - 1, Math.floor((event.clientX - box.left) / box.width * files)), Math.min(rows.length - 1, Math.floor((event.clientY - box.top) / box.height * rows.length))];
        say();
        showFile(number, at[0]);
      });
      grid.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (step) {
          event.preventDefault();
          at = [Math.min(files - 1, Math.max(0, at[0] + step[0])), Math.min(rows.length - 1, Math.max(0, at[1] + step[1]))];
          say();
        } else if (event.key === "Enter") showFile(number, at[0]);
      });
      new ResizeObserver(paint).observe(section);
      window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
      return { section, rank: rankOf, mark: (into) => { marked = into; paint(); } };
    }
  }

  if (inside) show(JSON.parse(inside.textContent));
  else if (place) fetch(place.dataset.source, { headers: { Accept: "application/json" } }).then(async (answer) => {
    const found = await answer.json().catch(() => ({}));
    if (answer.ok) show(found);
    else place.append(element("p", { class: "error-line" }, found.message || found.detail || String(answer.status)));
  });
})();
