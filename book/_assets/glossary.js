// Terms of the glossary: the title of a link to one becomes a popover, on hover, on focus, and on
// the first tap. Escape closes it; the link works as before.
(() => {
  const GAP = 6;
  const links = [...document.querySelectorAll("a[title]:has(> .std-term)")];
  if (!links.length) return;
  let open = null;
  let closing = 0;

  function box(link, number) {
    const made = document.createElement("div");
    made.id = `glossary-popover-${number}`;
    made.className = "glossary-popover";
    made.setAttribute("role", "tooltip");
    made.hidden = true;
    made.textContent = link.title;
    link.removeAttribute("title");
    link.setAttribute("aria-describedby", made.id);
    document.body.append(made);
    return made;
  }

  function place(link, popover) {
    // Of a link over two lines, the part that it begins with.
    const at = link.getClientRects()[0];
    const most = document.documentElement.clientWidth - popover.offsetWidth - GAP;
    const below = at.bottom + GAP + popover.offsetHeight <= window.innerHeight;
    const top = below ? at.bottom + GAP : Math.max(GAP, at.top - GAP - popover.offsetHeight);
    popover.style.left = `${window.scrollX + Math.max(GAP, Math.min(at.left, most))}px`;
    popover.style.top = `${window.scrollY + top}px`;
  }

  function hide() {
    clearTimeout(closing);
    if (open) open.hidden = true;
    open = null;
  }

  function show(link, popover) {
    clearTimeout(closing);
    if (open === popover) return;
    hide();
    popover.hidden = false;
    place(link, popover);
    open = popover;
  }

  // Not at once: the pointer may be on its way into the popover.
  const hideSoon = () => {
    clearTimeout(closing);
    closing = setTimeout(hide, 200);
  };

  links.forEach((link, number) => {
    const popover = box(link, number);
    let unseen = false;
    const enter = (event) => event.pointerType !== "touch" && show(link, popover);
    const leave = (event) => event.pointerType !== "touch" && hideSoon();
    link.addEventListener("pointerenter", enter);
    link.addEventListener("pointerleave", leave);
    popover.addEventListener("pointerenter", enter);
    popover.addEventListener("pointerleave", leave);
    link.addEventListener("pointerdown", (event) => {
      unseen = event.pointerType === "touch" && open !== popover;
    });
    link.addEventListener("focus", () => show(link, popover));
    link.addEventListener("blur", hide);
    link.addEventListener("click", (event) => {
      if (unseen) event.preventDefault();
      if (unseen) show(link, popover);
      unseen = false;
    });
  });

  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("pointerdown", (event) => {
    if (open && !event.target.closest(".glossary-popover, a[aria-describedby]")) hide();
  });
  window.addEventListener("resize", hide);
})();
