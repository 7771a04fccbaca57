// A job's page: follows its events, and asks for what has changed: the facts, the grid of tasks, the throughput, the log.
"use strict";

(() => {
  const page = document.getElementById("job");
  const base = page.dataset.base;
  const isEnded = () => document.getElementById("live").dataset.ended === "true";
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const json = async (path) => {
    const answer = await fetch(base + path, {headers: {Accept: "application/json"}, cache: "no-store"});
    if (answer.status === 401) location.assign("/ui/login?next=" + encodeURIComponent(location.pathname));
    if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
    return answer.json();
  };

  // The grid: a canvas, so that five thousand tasks are one element.
  const canvas = document.getElementById("grid"), says = document.getElementById("grid-says");
  const NAMES = {p: "pending", r: "running", d: "done", f: "failed"};
  let tasks = {states: "", first: 0, again: []}, chosen = -1, cell = 12, columns = 1;

  const draw = () => {
    const count = tasks.states.length, width = canvas.parentElement.clientWidth, ratio = window.devicePixelRatio || 1;
    cell = count > 2000 ? 9 : count > 300 ? 12 : 18;
    columns = Math.max(1, Math.floor(width / cell));
    const height = Math.max(cell, Math.ceil(count / columns) * cell);
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const colors = {p: color("--pending"), r: color("--running"), d: color("--done"), f: color("--failed")};
    const place = (number) => [(number % columns) * cell, Math.floor(number / columns) * cell];
    for (const state of "prdf") {  // a colour at a time: changing it is what costs
      pen.fillStyle = colors[state];
      for (let number = 0; number < count; number += 1) {
        if (tasks.states[number] === state) pen.fillRect(...place(number), cell - 1, cell - 1);
      }
    }
    pen.fillStyle = color("--again");
    for (const number of tasks.again) {
      const [x, y] = place(number - tasks.first);
      pen.fillRect(x, y, cell - 1, 3);
    }
    if (chosen >= 0) {
      const [x, y] = place(chosen);
      pen.strokeStyle = color("--text");
      pen.lineWidth = 2;
      pen.strokeRect(x, y, cell - 1, cell - 1);
    }
    canvas.dataset.count = count;
  };
  const choose = (number) => {
    if (number < 0 || number >= tasks.states.length) return;
    chosen = number;
    const state = NAMES[tasks.states[number]];
    says.textContent = `${page.dataset.task} ${number + tasks.first}: ${page.dataset[state]}`;
    draw();
  };
  const open = () => {
    if (chosen >= 0) htmx.ajax("GET", `${base}/tasks/${chosen + tasks.first}`, {target: "#task", swap: "innerHTML"});
  };
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    return Math.floor((event.clientY - box.top) / cell) * columns + Math.floor((event.clientX - box.left) / cell);
  };
  canvas.addEventListener("click", (event) => { choose(under(event)); open(); });
  canvas.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
    if (step) { event.preventDefault(); choose(chosen < 0 ? 0 : chosen + step); }
    if (event.key === "Home") { event.preventDefault(); choose(0); }
    if (event.key === "End") { event.preventDefault(); choose(tasks.states.length - 1); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
  });
  new ResizeObserver(draw).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { draw(); drawPlot(); });

  // The plot.
  let plot = null, rates = null;
  const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
  const inBytes = (value) => {
    let unit = 0;
    while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
    return `${value >= 100 || unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit]}`;
  };
  const drawPlot = () => {
    const box = document.getElementById("plot"), has = rates !== null && rates.seconds.length > 0;
    document.getElementById("no-plot").hidden = has;
    box.hidden = !has;
    if (plot) plot.destroy();
    plot = null;
    if (!has) return;
    const axis = {stroke: color("--text"), grid: {stroke: color("--line")}, ticks: {stroke: color("--line")}};
    plot = new uPlot({
      width: box.clientWidth,
      height: 180,
      scales: {x: {time: false}, y: {range: (_, low, high) => [0, Math.max(high, 1) * 1.05]}},
      axes: [{...axis, values: (_, ticks) => ticks.map((tick) => `${tick} s`)},
             {...axis, size: 80, values: (_, ticks) => ticks.map((tick) => `${inBytes(tick)}/s`)}],
      series: [{label: page.dataset.seconds}, {label: page.dataset.rate, stroke: color("--accent"), fill: color("--accent-soft"), width: 1.5,
        value: (_, value) => (value === null ? "–" : `${inBytes(value)}/s`)}],
    }, [rates.seconds, rates.rates], box);
  };
  addEventListener("resize", () => { if (plot) plot.setSize({width: document.getElementById("plot").clientWidth, height: 180}); });

  // The log. Lines are put in as text, whatever they are.
  const log = document.getElementById("log"), level = document.getElementById("log-level"), words = document.getElementById("log-words");
  const ofTask = document.getElementById("log-task"), follows = document.getElementById("log-follow"), MOST_LINES = 5000;
  const fits = (line) => {
    const wanted = words.value.trim().toLowerCase();
    line.hidden = wanted !== "" && !line.textContent.toLowerCase().includes(wanted);
  };
  const piece = (kind, text) => {
    const made = document.createElement("span");
    made.className = kind;
    made.textContent = text;
    return made;
  };
  const add = (entry) => {
    const line = document.createElement("div");
    line.className = "line";
    if (/^[a-z]+$/.test(entry.level)) line.classList.add(entry.level);
    line.append(piece("at", entry.at), " ", piece("level", entry.level));
    if (entry.task !== null) line.append(" ", piece("of", entry.task));
    line.append(" ", piece("said", entry.message));
    fits(line);
    log.append(line);
  };
  let asking = 0;
  const more = async (anew) => {
    const turn = asking += 1;
    const query = new URLSearchParams({level: level.value, ...(anew ? {tail: "true"} : {after: log.dataset.last})});
    if (ofTask.value !== "") query.set("task", ofTask.value);
    const entries = await json(`/log.json?${query}`);
    if (turn !== asking) return;  // another question was asked meanwhile
    if (anew) log.replaceChildren();
    entries.forEach(add);
    while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
    if (entries.length) log.dataset.last = entries[entries.length - 1].seq;
    if (entries.length && follows.checked) log.scrollTop = log.scrollHeight;
  };
  level.addEventListener("change", () => more(true).catch(() => {}));
  ofTask.addEventListener("change", () => more(true).catch(() => {}));
  words.addEventListener("input", () => [...log.children].forEach(fits));
  follows.addEventListener("change", () => refresh());
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-log-of]");
    if (!button) return;
    ofTask.value = button.dataset.logOf;
    more(true).catch(() => {});
    log.focus();
  });
  log.scrollTop = log.scrollHeight;

  // Events only say that something is new; a second's news are asked for together.
  let stream = null, seen = page.dataset.seen, isDue = false, isAsking = false;
  const refresh = async () => {
    isDue = true;
    if (isAsking) return;
    isAsking = true;
    while (isDue) {
      isDue = false;
      try {
        await htmx.ajax("GET", `${base}/live`, {target: "#live", swap: "outerHTML"});
        tasks = await json("/tasks.json");
        draw();
        rates = await json("/throughput.json");
        drawPlot();
        if (follows.checked) await more(false);
      } catch (error) {
        console.warn(error);
      }
      await new Promise((resume) => setTimeout(resume, 1000));
    }
    isAsking = false;
    if (isEnded()) close();
  };
  const close = () => { if (stream) stream.close(); stream = null; };
  const follow = () => {
    if (stream || document.hidden || isEnded()) return;
    stream = new EventSource(`${base}/stream?after=${seen}`);
    for (const kind of ["submitted", "state", "planned", "phase", "task", "waiting", "progress", "waits"]) {
      stream.addEventListener(kind, (event) => {
        if (event.lastEventId) seen = event.lastEventId;
        refresh();
      });
    }
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else { refresh(); follow(); }
  });
  document.addEventListener("console:swapped", follow);  // a retry has begun it anew
  refresh().then(follow);
  follow();
})();
