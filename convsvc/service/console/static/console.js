// What all pages share: parts that are asked for again while somebody looks, copying, and word when the service does not answer.
"use strict";

(() => {
  const trouble = document.getElementById("trouble");
  const say = (isWrong) => {
    trouble.textContent = isWrong ? trouble.dataset.text : "";
    trouble.hidden = !isWrong;
  };
  document.body.addEventListener("htmx:sendError", () => say(true));
  document.body.addEventListener("htmx:responseError", (event) => say(event.detail.xhr.status >= 500));
  document.body.addEventListener("htmx:afterOnLoad", (event) => { if (event.detail.xhr.status < 400) say(false); });

  // Nothing is asked while the page is not looked at, nor while something in that part is chosen from.
  let waited = 0;
  setInterval(() => {
    waited += 1;
    if (document.hidden) return;
    for (const part of document.querySelectorAll("[data-refresh-s]")) {
      if (waited % Number(part.dataset.refreshS) === 0) htmx.trigger(part, "refresh");
    }
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) document.querySelectorAll("[data-refresh-s]").forEach((part) => htmx.trigger(part, "refresh"));
  });

  // What was ticked, opened and scrolled stays so when its part is shown anew.
  let kept = null;
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const part = event.detail.target;
    kept = {
      ticked: [...part.querySelectorAll("input[type=checkbox][id]:checked")].map((box) => box.id),
      open: [...part.querySelectorAll("details[id][open]")].map((item) => item.id),
      scrolled: [...part.querySelectorAll(".scroll")].map((item) => item.scrollLeft),
    };
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    if (!kept) return;
    for (const id of kept.ticked) { const box = document.getElementById(id); if (box) box.checked = true; }
    for (const id of kept.open) { const item = document.getElementById(id); if (item) item.open = true; }
    document.querySelectorAll(".scroll").forEach((item, place) => { item.scrollLeft = kept.scrolled[place] || 0; });
    kept = null;
    document.dispatchEvent(new Event("console:swapped"));
  });

  // A form that asks first; the list's tick for all; a folder that was chosen.
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  document.addEventListener("change", (event) => {
    if (event.target.id !== "tick-all") return;
    document.querySelectorAll("input[name=job]").forEach((box) => { box.checked = event.target.checked; });
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-choose]");
    if (!button) return;
    const field = document.getElementById(button.dataset.into);
    field.value = button.dataset.choose;
    document.getElementById("browse").replaceChildren();
    field.focus();
    htmx.trigger(field, "chosen");
  });
  // What lies at the source is known now, or the target has other fields: the plan's answer may be another.
  document.body.addEventListener("htmx:afterSettle", (event) => {
    if (["inspected", "target-fields"].includes(event.detail.target.id)) htmx.trigger("#new", "look");
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // over plain HTTP to another machine there is no clipboard
      const range = document.createRange();
      range.selectNodeContents(document.getElementById(button.dataset.copy));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    const told = document.getElementById("copied");
    if (told) told.textContent = told.dataset.text;
  });
})();
