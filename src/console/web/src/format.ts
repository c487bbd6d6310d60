// How numbers, times and names are written.

const whole = new Intl.NumberFormat("en-US");
export const count = (n: number) => whole.format(n);
export const counted = (n: number, thing: string) => `${count(n)} ${thing}${n === 1 ? "" : "s"}`;

export function short(n: number): string {
  for (const [unit, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]] as const) {
    if (n >= unit) return `${(n / unit).toPrecision(3).replace(/\.?0+$/, "")}${sign}`;
  }
  return String(n);
}

export function bytes(n: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${at === 0 ? n : n.toFixed(1)} ${units[at]}`;
}

export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago, in one unit. */
export const ago = (ms: number) => (ms < 0 ? "just now" : `${duration(ms).split(" ").slice(0, 2).join(" ")} ago`);

const iso = (ms: number) => new Date(ms).toISOString();

/** 2025-10-09 14:03:00 UTC, with as many digits of the second as are worth it. */
export function time(ms: number, digits: 0 | 3 = 0): string {
  const text = iso(ms);
  return `${text.slice(0, 10)} ${text.slice(11, digits === 0 ? 19 : 23)} UTC`;
}

export function micros(us: number | null | undefined): string {
  if (us === null || us === undefined) return "time unknown";
  const ms = Math.floor(us / 1000);
  const rest = String(us - ms * 1000).padStart(3, "0");
  return time(ms, 3).replace(" UTC", `${rest} UTC`);
}

/** As a point is written. */
export const point = (ms: number) => iso(ms).replace(/\.000Z$/, "Z");

export const withoutPublic = (name: string) => (name.startsWith("public.") ? name.slice(7) : name);

/** A table's name, however the server wrote it. */
export function tableName(name: unknown): string {
  if (typeof name === "string") return withoutPublic(name);
  const { schema, table } = (name ?? {}) as { schema?: string; table?: string };
  return schema === "public" || !schema ? String(table ?? "") : `${schema}.${table}`;
}
