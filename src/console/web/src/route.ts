// The address says all that a page shows, so that it can be sent to whoever is on the call.

import { useEffect, useState } from "preact/hooks";
import { encoded, type Query } from "./api";

export interface Place { path: string; query: URLSearchParams }

const here = (): Place => ({ path: location.pathname, query: new URLSearchParams(location.search) });
const listeners = new Set<() => void>();

export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const moved = () => setPlace(here());
    listeners.add(moved);
    addEventListener("popstate", moved);
    return () => { listeners.delete(moved); removeEventListener("popstate", moved); };
  }, []);
  return place;
}

export const address = (path: string, query: Query = {}) => path + encoded(query);

/** Goes somewhere; `replace` where going back should not lead to what was before. */
export function go(to: string, replace = false) {
  if (to === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  listeners.forEach((moved) => moved());
}

/** The same page with some of its query changed. */
export function change(query: Query, replace = false) {
  const all = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(query)) {
    all.delete(name);
    if (Array.isArray(value)) value.forEach((one) => all.append(name, one));
    else if (value !== undefined && value !== null && value !== "") all.set(name, String(value));
  }
  const text = all.toString();
  go(location.pathname + (text ? `?${text}` : ""), replace);
}

/** Links of ours do not load the page anew. */
export function followLinks() {
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element).closest?.("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target || link.origin !== location.origin || link.getAttribute("href")?.startsWith("#")) return;
    event.preventDefault();
    const moves = link.pathname !== location.pathname;
    go(link.pathname + link.search);
    if (moves) { scrollTo(0, 0); document.getElementById("main")?.focus(); }
  });
}
