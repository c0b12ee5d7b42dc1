// A table or formula that scrolls in its own box is scrolled by the keyboard, too.
const scrolls = new ResizeObserver((boxes) => {
  for (const { target } of boxes) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
});
document$.subscribe(() => {
  document.querySelectorAll(".md-typeset__scrollwrap, .formula").forEach((box) => scrolls.observe(box));
});
