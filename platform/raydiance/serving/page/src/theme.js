// Dark or light: what the system wants, until the reader chooses.

const CHOSEN = "raydiance-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

const chosen = () => localStorage.getItem(CHOSEN) ?? (system.matches ? "dark" : "light");

export function followTheme(changed) {
  const apply = () => {
    document.documentElement.dataset.theme = chosen();
    changed(chosen());
  };
  system.addEventListener("change", apply);
  apply();
  return () => {
    localStorage.setItem(CHOSEN, chosen() === "dark" ? "light" : "dark");
    apply();
  };
}
