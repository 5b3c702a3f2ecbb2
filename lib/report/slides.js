"use strict";
// Keys: arrows, space, page up and down, home, end: move; f: full screen; n: notes beside the
// slides; p: a second window with the notes, which follows this one.
const slides = [...document.querySelectorAll(".slide")];
slides.forEach((slide, n) => {
  slide.id = String(n + 1);
  slide.querySelector(".frame").dataset.place = `${n + 1} / ${slides.length}`;
});
const view = document.documentElement.classList;
let other = window.opener;
let at = 0;
const here = () => {
  const middle = innerHeight / 2;
  return Math.max(0, slides.findIndex((slide) => slide.getBoundingClientRect().bottom > middle));
};
const show = (n) => {
  at = n;
  slides[n].scrollIntoView();
  history.replaceState(null, "", `#${n + 1}`);
};
const go = (n) => {
  const to = Math.max(0, Math.min(slides.length - 1, n));
  show(to);
  other?.postMessage({ slide: to }, "*");
};
const toggleNotes = () => {
  at = here();
  view.toggle("presenter");
  show(at);
};
const steps = {
  ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, Enter: 1,
  ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Backspace: -1,
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in steps) go(here() + steps[event.key] * (event.shiftKey ? -1 : 1));
  else if (event.key === "Home") go(0);
  else if (event.key === "End") go(slides.length - 1);
  else if (event.key === "f") document.documentElement.requestFullscreen?.();
  else if (event.key === "n") toggleNotes();
  else if (event.key === "p") other = open(location.href, "notes");
  else return;
  event.preventDefault();
});
addEventListener("message", (event) => {
  if (event.source === other && Number.isInteger(event.data?.slide)) show(event.data.slide);
});
addEventListener("scrollend", () => { at = here(); });
addEventListener("resize", () => slides[at].scrollIntoView());
if (window.name === "notes") view.add("presenter");
const first = Number(location.hash.slice(1)) - 1;
if (slides[first]) show(first);
{% include "reach.js" %}
