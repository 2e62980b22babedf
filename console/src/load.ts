import { useEffect, useRef, useState } from "preact/hooks";
import { changes } from "./state.ts";
import { type Failure, failureOf } from "./wire.ts";

export interface Loaded<T> {
  readonly data: T | undefined;
  readonly failure: Failure | undefined;
  readonly loading: boolean;
  /** When the data came, in milliseconds. */
  readonly at: number;
  again(): void;
}

/** Reads something, and reads it again when `key` or something on the server changed. Old data stays at a failure. */
export function useLoad<T>(key: string, read: (signal: AbortSignal) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "again"> & { key: string }>({
    ...{ data: undefined, failure: undefined, loading: true, at: 0, key },
  });
  const [turn, setTurn] = useState(0);
  const reader = useRef(read);
  reader.current = read;
  const version = changes.value;
  useEffect(() => {
    const stop = new AbortController();
    setState((old) => ({
      ...old,
      loading: true,
      failure: undefined,
      ...(old.key !== key && { data: undefined, key }),
    }));
    reader.current(stop.signal).then(
      (data) => stop.signal.aborted || setState({ data, failure: undefined, loading: false, at: Date.now(), key }),
      (error) => stop.signal.aborted || setState((old) => ({ ...old, failure: failureOf(error), loading: false, key })),
    );
    return () => stop.abort();
  }, [key, turn, version]);
  return { ...state, data: state.key === key ? state.data : undefined, again: () => setTurn((n) => n + 1) };
}
