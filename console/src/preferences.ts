import { effect, signal } from "@preact/signals";
import { utc } from "./text.ts";

/** The one thing that the browser keeps: how the page looks, and nothing of what it shows. */
const KEY = "sallyport.preferences";
export const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

export const theme = signal<Theme>("system");

try {
  const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}") as { theme?: unknown; utc?: unknown };
  theme.value = THEMES.find((one) => one === kept.theme) ?? "system";
  utc.value = kept.utc === true;
} catch {
  // A browser that keeps nothing, or something else under this name: as it is by default.
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const system = signal(dark.matches);
dark.addEventListener("change", ({ matches }) => {
  system.value = matches;
});
effect(() => {
  const chosen = theme.value === "system" ? (system.value ? "dark" : "light") : theme.value;
  document.documentElement.dataset["theme"] = chosen;
});

export function prefer(change: { readonly theme?: Theme; readonly utc?: boolean }): void {
  theme.value = change.theme ?? theme.value;
  utc.value = change.utc ?? utc.value;
  try {
    localStorage.setItem(KEY, JSON.stringify({ theme: theme.value, utc: utc.value }));
  } catch {
    // It lasts as long as this page.
  }
}
