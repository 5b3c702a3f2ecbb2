// What scrolls sideways on a small screen can be reached by keyboard, and only that.
const reach = () => {
  for (const part of document.querySelectorAll(".scroll, .table")) {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
addEventListener("load", reach);
