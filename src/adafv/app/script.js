() => {
  // Before the browser moves the focus: the radios of a group share a name, so that they are one
  // stop, and an open menu is no stop, so that leaving its field closes it.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Tab") return;
    document.querySelectorAll("fieldset").forEach((group, number) => {
      for (const radio of group.querySelectorAll("input[type=radio]")) radio.name = `group-${number}`;
    });
    for (const menu of document.querySelectorAll("[role=listbox]")) menu.tabIndex = -1;
  }, true);
  // A menu is seen while its field has the focus, and no longer.
  document.addEventListener("focusin", ({ target }) => {
    const own = target.getAttribute("aria-controls");
    const typed = target.getAttribute("role") === "combobox";
    for (const menu of document.querySelectorAll("[role=listbox]")) {
      menu.style.display = typed && (!own || own === menu.id) ? "" : "none";
    }
  });
}
