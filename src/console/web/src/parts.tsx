// Small parts that every page is made of.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Change, Column, Counts, Trouble } from "./api";
import { count, counted, micros, withoutPublic } from "./format";
import { address } from "./route";

/** Says something to those who do not see it. */
export function announce(text: string) {
  const live = document.getElementById("live");
  if (live) live.textContent = text;
}

export function Copy({ text, label = "Copy" }: { text: string; label?: string }) {
  const [done, setDone] = useState<boolean | null>(null);
  const copy = async () => {
    const copied = await toClipboard(text);
    setDone(copied);
    announce(copied ? "Copied" : "Could not copy: select the text instead");
    setTimeout(() => setDone(null), 2500);
  };
  return <button type="button" class="button" onClick={copy}>{done === null ? label : done ? "Copied" : "Select and copy"}</button>;
}

async function toClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without encryption browsers give no clipboard to pages of other machines.
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "away";
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    return copied;
  }
}

export function Command({ text, label, main }: { text: string; label: string; main?: boolean }) {
  return (
    <figure class={`command${main ? " main" : ""}`}>
      <figcaption>{label}</figcaption>
      <div><code tabIndex={0} data-command>{text}</code><Copy text={text} label={main ? "Copy command" : "Copy"} /></div>
    </figure>
  );
}

export function Problem({ trouble, again }: { trouble: Trouble; again?: () => void }) {
  return (
    <div class="problem" role="alert">
      <p><strong>{trouble.cause_}</strong></p>
      {trouble.place && <pre tabIndex={0}>{trouble.place}</pre>}
      {trouble.remedy && <p>{trouble.remedy}</p>}
      {again && <button type="button" class="button" onClick={again}>Try again</button>}
    </div>
  );
}

export function Busy({ what }: { what: string }) {
  return <p class="busy" role="status"><span class="spinner" aria-hidden="true" />{what}</p>;
}

export const OPERATIONS = ["insert", "update", "delete", "truncate"] as const;
const NAMES: Record<string, string> = { insert: "inserted", update: "updated", delete: "deleted", truncate: "truncated", snapshot: "read" };
const SIGNS: Record<string, string> = { insert: "+", update: "~", delete: "−", truncate: "∅", snapshot: "·" };

export const Operation = ({ op }: { op: string }) => (
  <span class={`op ${op}`}><span aria-hidden="true">{SIGNS[op] ?? "?"}</span> {NAMES[op] ?? op}</span>
);

/** What was done, by operation; what is zero is left out. */
export function Tally({ counts }: { counts: Counts }) {
  const parts = OPERATIONS.map((op, at) => [op, counts[at] ?? 0] as const).filter(([, n]) => n > 0);
  if (parts.length === 0) return <span class="quiet">no rows</span>;
  return (
    <span class="tally">
      {parts.map(([op, n]) => (
        <span key={op} class={`op ${op}`}><span aria-hidden="true">{SIGNS[op]}</span>{count(n)}<span class="away"> {NAMES[op]}</span></span>
      ))}
    </span>
  );
}

export const describeCounts = (counts: Counts) => {
  const parts = OPERATIONS.map((op, at) => [op, counts[at] ?? 0] as const).filter(([, n]) => n > 0);
  return parts.length === 0 ? "no changes" : parts.map(([op, n]) => `${count(n)} ${NAMES[op]}`).join(", ");
};

export const transactionAddress = (lsn: string) => address("/transaction", { txn: lsn });
export const TransactionLink = ({ lsn, xid }: { lsn: string; xid?: number | null }) => (
  <a href={transactionAddress(lsn)} class="code">{xid ? `xid ${xid}` : lsn}</a>
);

export function rowAddress(table: string, columns: Column[], values: (string | null)[]): string | null {
  const key = columns.flatMap((column, at) => (column.key ? [values[at] ?? null] : []));
  return key.length === 0 || key.some((value) => value === null) ? null : address("/row", { name: table, key: key as string[] });
}

export const Value = ({ text }: { text: string | null | undefined }) =>
  text === null || text === undefined ? <span class="null">NULL</span> : text === "" ? <span class="null">empty</span> : <>{text}</>;

/** Rows as they were and as they became; what differs stands out. */
export function ChangeTable({ table, columns, rows, caption, withTransaction }: { table: string; columns: Column[]; rows: Change[]; caption: string; withTransaction?: boolean }) {
  return (
    <Scroll label={caption}>
      <table class="rows">
        <caption class="away">{caption}</caption>
        <thead>
          <tr>
            {withTransaction && <th scope="col">Transaction</th>}
            <th scope="col">What</th>
            {columns.map((column) => <th scope="col" key={column.name} class={column.key ? "key" : ""}>{column.name}{column.key && <span class="away"> (key)</span>}</th>)}
          </tr>
        </thead>
        <tbody>
          {rows.map((row, at) => {
            const shown = row.new ?? row.old;
            const link = shown && rowAddress(table, columns, shown);
            return (
              <tr key={at} class={row.op}>
                {withTransaction && <td class="code nowrap"><TransactionLink lsn={row.lsn} xid={row.xid} /><br /><small class="quiet">{micros(row.micros)}</small></td>}
                <td class="nowrap"><Operation op={row.op} /></td>
                {shown === null ? <td colSpan={columns.length}>all rows</td> : columns.map((column, at) => (
                  <td key={column.name} class={column.key ? "key" : ""}>
                    <Cell before={row.old} after={row.new} at={at} link={column.key ? link : null} />
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}

function Cell({ before, after, at, link }: { before: (string | null)[] | null; after: (string | null)[] | null; at: number; link: string | null }) {
  const [old, now] = [before?.[at], after?.[at]];
  if (before && after && old !== now) {
    return (
      <span class="differs">
        <del><span class="away">was </span><Value text={old} /></del> <span aria-hidden="true">→</span> <ins><span class="away">became </span><Value text={now} /></ins>
      </span>
    );
  }
  const value = <Value text={after ? now : old} />;
  return link ? <a href={link}>{value}</a> : value;
}

/** What is wider than the page is scrolled by itself, by keys too. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  const box = useRef<HTMLDivElement>(null);
  const [wide, setWide] = useState(false);
  useEffect(() => {
    const look = () => setWide(box.current !== null && (box.current.scrollWidth > box.current.clientWidth || box.current.scrollHeight > box.current.clientHeight));
    look();
    const observer = new ResizeObserver(look);
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  });
  return <div ref={box} class="scroll" {...(wide ? { tabIndex: 0, role: "region", "aria-label": `${label}, to scroll` } : {})}>{children}</div>;
}

export function TableChoice({ tables, value, onChange, label }: { tables: { name: string }[]; value: string; onChange: (name: string) => void; label: string }) {
  const known = tables.some((table) => table.name === value);
  return (
    <label class="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        <option value="">choose a table</option>
        {!known && value && <option value={value}>{value}</option>}
        {tables.map((table) => <option key={table.name} value={table.name}>{withoutPublic(table.name)}</option>)}
      </select>
    </label>
  );
}

export const More = ({ cut, shown, what }: { cut: boolean; shown: number; what: string }) =>
  cut ? <p class="quiet">Only the first {counted(shown, what)} are shown: there are more.</p> : null;
