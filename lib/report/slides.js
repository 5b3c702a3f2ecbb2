"use strict";
const slides = [...document.querySelectorAll(".slide")];
slides.forEach((slide, n) => {
  slide.id = String(n + 1);
  slide.dataset.place = `${n + 1} / ${slides.length}`;
});
const here = () => {
  const middle = innerHeight / 2;
  return slides.findIndex((slide) => slide.getBoundingClientRect().bottom > middle);
};
const go = (n) => {
  const to = Math.max(0, Math.min(slides.length - 1, n));
  slides[to].scrollIntoView();
  history.replaceState(null, "", `#${to + 1}`);
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
  else return;
  event.preventDefault();
});
if (location.hash) go(Number(location.hash.slice(1)) - 1 || 0);
