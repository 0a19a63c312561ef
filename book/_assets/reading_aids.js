// What the pages lack for readers with a keyboard or a screen reader: boxes that scroll take the
// focus, and the handles of the widgets' sliders carry the name of their label.
(() => {
  const BOXES = ".bd-article pre, .bd-article div:has(> table)";

  function reach() {
    for (const box of document.querySelectorAll(BOXES)) {
      const scrolls = box.scrollWidth > box.clientWidth + 1;
      if (scrolls && !box.hasAttribute("tabindex")) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", box.matches("pre") ? "Code" : "Table");
      } else if (!scrolls && box.getAttribute("role") === "group" && box.tabIndex === 0) {
        for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
      }
    }
  }

  function name() {
    for (const handle of document.querySelectorAll(".noUi-handle:not([aria-label])")) {
      const label = handle.closest(".widget-inline-hbox")?.querySelector(".widget-label");
      handle.setAttribute("aria-label", label?.textContent || "Value");
    }
  }

  reach();
  window.addEventListener("load", reach);
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
  if (document.querySelector('script[type^="application/vnd.jupyter.widget"]')) {
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  }
})();
