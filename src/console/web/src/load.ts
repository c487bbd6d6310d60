// Asking the server for what a page shows.

import { useEffect, useRef, useState } from "preact/hooks";
import { get, Trouble, type Query } from "./api";

export interface Loaded<T> { value: T | null; trouble: Trouble | null; loading: boolean; again: () => void }

/** Asks anew when the question changes; while it waits, what was there before stays. */
export function useLoaded<T>(path: string | null, query: Query = {}): Loaded<T> {
  const key = path === null ? null : path + JSON.stringify(query);
  const [state, setState] = useState<{ key: string | null; value: T | null; trouble: Trouble | null; loading: boolean }>({ key: null, value: null, trouble: null, loading: false });
  const [round, setRound] = useState(0);
  const last = useRef(key);
  last.current = key;
  useEffect(() => {
    if (path === null) { setState({ key: null, value: null, trouble: null, loading: false }); return undefined; }
    const abort = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    get<T>(path, query, abort.signal).then(
      (value) => setState({ key, value, trouble: null, loading: false }),
      (error) => {
        if (abort.signal.aborted) return;
        const trouble = error instanceof Trouble ? error : new Trouble(0, String(error), null, null);
        if (trouble.status === 401) dispatchEvent(new Event("logged-out"));
        setState({ key, value: null, trouble, loading: false });
      },
    );
    return () => abort.abort();
  }, [key, round]);
  return { value: state.value, trouble: state.trouble, loading: state.loading || state.key !== key, again: () => setRound((n) => n + 1) };
}
