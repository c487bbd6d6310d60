// What the server answers, and how it is asked.

export type Counts = [insert: number, update: number, remove: number, truncate: number];

export interface Me {
  user: string | null;
  unlimited: boolean;
  database: string;
  version: string;
  from: number;
  watermark: string;
  watermark_time: number;
  now: number;
  has_source: boolean;
  tenant_columns: string[];
}

export interface Column { name: string; key: boolean; type?: string }
export interface Table { name: string; columns: Column[]; unique_key: boolean; partitioned: boolean }

export interface Timeline {
  from: number;
  to: number;
  width: number;
  bars: [time: number, ...counts: Counts][];
  took_ms: number;
  how: "rollup" | "log" | "rows";
  progress?: { whole: boolean; share: number; transactions: number; changes: number; seconds: number };
  tables?: { name: string | null; counts: Counts }[];
  applications?: { name: string | null; counts: Counts }[];
  left_out?: string[];
}

export interface Happening {
  kind: "mark" | "deployment" | "alert" | "ddl" | "restore" | "gap";
  time: number;
  end: number | null;
  label: string;
  severity: string | null;
  lsn: string | null;
}

export interface Listed {
  lsn: string;
  xid: number;
  time: number;
  micros: number;
  counts: Counts;
  tables: { name: string; counts: Counts }[];
  more_tables: number;
  who: string | null;
  application: string | null;
  statement: string | null;
}

export interface Transaction {
  lsn: string;
  limited: boolean;
  xid?: number;
  time?: number;
  micros?: number;
  who?: string | null;
  application?: string | null;
  claims?: string[];
  statements?: string[];
  ddl?: { tag: string; concerns: string[] }[];
  events?: Happening[];
  tables: { name: string; counts?: Counts }[];
  counts?: Counts;
  commands?: { show: string; incident: string; plan: string; apply: string };
}

export type Values = (string | null)[];
export interface Change {
  lsn: string;
  xid: number | null;
  time: number | null;
  micros: number | null;
  op: string;
  old: Values | null;
  new: Values | null;
}
export interface Changes { name: string; columns: Column[]; rows: Change[]; cut: boolean }

export interface RowPast {
  name: string;
  columns: Column[];
  versions: Change[];
  cut: boolean;
  blame: { column: string; value: string | null; set_by: { lsn: string; xid: number | null; op: string; micros: number | null } | null }[];
  command: string;
}

export interface State {
  name: string;
  lsn: string;
  point: string;
  describe: string;
  last: { lsn: string; xid: number; micros: number } | null;
  columns: Column[];
  rows: Values[];
  count: number | null;
  cut: boolean;
}

export interface Differences extends Changes {
  counts: Counts;
  from: { lsn: string; describe: string };
  to: { lsn: string; describe: string };
}

export interface Answer { columns: { name: string; type: string }[]; rows: Values[]; cut: boolean; most: number; took_ms: number }

export interface Plan {
  command: string;
  rows_to_restore: number;
  seconds: number;
  estimated_from: string;
  tenants: { table: { schema: string; table: string } | string; column: string; value: string | null; rows: number }[];
  conflicts: { lsn: string; xid: number | null; time: string | null; table: unknown; rows: number; how: string }[];
  rejections: {
    table: unknown; kind: string; name: string; definition: string | null; rows: number;
    samples: { key: string; reason: string | null }[];
    since: { lsn: string; xid: number | null; time: string | null; user: string | null; statement: string | null } | null;
    can_be_not_valid: boolean;
  }[];
  plan: {
    tables: { name: unknown; insert: number; update: number; delete: number; skipped: number;
      samples: { class: string; key: string; changes: { column: string; now: string | null; then: string | null }[] }[] }[];
    notes: { table: unknown; text: string; skipped: boolean }[];
    recreated: unknown[];
    options: Record<string, unknown>;
  };
}

export interface Finding { level: string; state: "ok" | "warning" | "failed"; details: string; remedy?: string }
export interface Health {
  findings: Finding[];
  vitals: {
    archive: string; database: string; start_lsn: string; watermark: string; watermark_time: string;
    freshness: unknown;
    archiver: { decoded: string; in_progress: number; spilled_bytes: number; at: string } | null;
    source: null | {
      position: string; lag_bytes: number; lag_seconds: number; ddl_capture: boolean;
      slot: null | { name: string; active_pid: number | null; sent: string | null; received: string | null;
        confirmed_flush: string; wal_status: string; held_bytes: number; safe_wal_size: number | null };
    };
    source_error: string | null;
    alerts: Record<string, number>;
    health: { time: string; check: string; status: string; severity: string; value: number | null; limit: number; details: string; resolution: string | null }[];
  };
  tables: { schema: string; table: string; change_bytes: number; change_files: number; image_bytes: number; image_files: number }[];
}

/** Why there is no answer, and what to do. */
export class Trouble extends Error {
  constructor(readonly status: number, readonly cause_: string, readonly remedy: string | null, readonly place: string | null) {
    super(cause_);
  }
}

export type Query = Record<string, string | number | string[] | undefined | null>;

export function encoded(query: Query): string {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (Array.isArray(value)) value.forEach((one) => parts.append(name, one));
    else if (value !== undefined && value !== null && value !== "") parts.append(name, String(value));
  }
  const text = parts.toString();
  return text === "" ? "" : `?${text}`;
}

async function told<T>(path: string, init: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Trouble(0, "the console's server does not answer", "look whether afterimage serve still runs", null);
  }
  if (response.status === 204) return undefined as T;
  const text = await response.text();
  if (!response.ok) {
    let said: { cause?: string; remedy?: string | null; place?: string | null } = {};
    try {
      said = JSON.parse(text);
    } catch {
      said = { cause: text.trim() || `the server answered ${response.status}` };
    }
    throw new Trouble(response.status, said.cause ?? "", said.remedy ?? null, said.place ?? null);
  }
  return JSON.parse(text) as T;
}

export const get = <T>(path: string, query: Query = {}, signal?: AbortSignal) =>
  told<T>(`/api/${path}${encoded(query)}`, { signal, headers: { accept: "application/json" } });

export const post = <T>(path: string, body: unknown, signal?: AbortSignal) =>
  told<T>(`/api/${path}`, { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
