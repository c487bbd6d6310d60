// A table as it was at a time, and what differs between two times.

import { useEffect, useState } from "preact/hooks";
import type { Differences, Me, State, Table } from "./api";
import { count, counted, micros, point, time, withoutPublic } from "./format";
import { useLoaded } from "./load";
import { Busy, ChangeTable, Command, Problem, rowAddress, Scroll, TableChoice, Tally, TransactionLink, Value } from "./parts";
import { address, change, usePlace } from "./route";

const PAGE = 100;

export function TablePage({ me }: { me: Me }) {
  const { query } = usePlace();
  const name = query.get("name") ?? "", at = query.get("at") ?? "", where = query.get("where") ?? "";
  const offset = Math.max(0, Number(query.get("offset")) || 0);
  const tables = useLoaded<{ tables: Table[] }>("tables");
  const state = useLoaded<State>(name ? "state" : null, { name, at, where, offset, limit: PAGE });
  const [condition, setCondition] = useState(where);
  useEffect(() => setCondition(where), [where]);
  const shown = state.value;
  return (
    <main id="main" tabIndex={-1}>
      <h1>Table at a time {name && <span class="code">{withoutPublic(name)}</span>}</h1>
      <div class="card">
        <div class="inline-form">
          <TableChoice label="Table" tables={tables.value?.tables ?? []} value={name} onChange={(next) => change({ name: next, offset: null, where: null })} />
          <PointField label="At" value={at} onChange={(next) => change({ at: next, offset: null })} placeholder="now" />
          <form class="field grow" onSubmit={(event) => { event.preventDefault(); change({ where: condition.trim() || null, offset: null }); }}>
            <label for="where"><span>Only rows where</span></label>
            <input id="where" value={condition} onInput={(event) => setCondition(event.currentTarget.value)} placeholder="a condition in SQL, then Enter" />
          </form>
        </div>
        <Slider me={me} value={at} label="Time" onChange={(next) => change({ at: next, offset: null }, true)} />
        {name && <p class="fine"><a href={address("/differences", { name, from: at || point(me.from) })}>What differs since then</a></p>}
      </div>
      {tables.trouble && <Problem trouble={tables.trouble} again={tables.again} />}
      {state.trouble && <Problem trouble={state.trouble} again={state.again} />}
      {!name && <div class="empty"><p><strong>Choose a table.</strong></p><p>Then move the slider: its rows are shown as they were.</p></div>}
      {name && state.loading && !shown && !state.trouble && <Busy what="Reading the table" />}
      {shown && (
        <section class="card" aria-labelledby="state-title" aria-busy={state.loading}>
          <div class="head"><h2 id="state-title">{shown.count === null ? "Rows" : counted(shown.count, "row")} <span class="quiet">{shown.last ? <>after <TransactionLink lsn={shown.last.lsn} xid={shown.last.xid} />, {micros(shown.last.micros)}</> : "as the first base image has them"}</span></h2></div>
          {shown.rows.length === 0 ? <p class="quiet">There were none.</p> : (
            <Scroll label={`Rows of ${name}`}>
              <table class="rows">
                <caption class="away">Rows of {name} at {shown.lsn}</caption>
                <thead><tr>{shown.columns.map((column) => <th scope="col" key={column.name} class={column.key ? "key" : ""}>{column.name}</th>)}</tr></thead>
                <tbody>{shown.rows.map((row, i) => {
                  const link = rowAddress(shown.name, shown.columns, row);
                  return <tr key={i}>{row.map((value, j) => <td key={j} class={shown.columns[j]?.key ? "key" : ""}>{link && shown.columns[j]?.key ? <a href={link}><Value text={value} /></a> : <Value text={value} />}</td>)}</tr>;
                })}</tbody>
              </table>
            </Scroll>
          )}
          {(offset > 0 || shown.cut) && (
            <p class="pages">
              <button type="button" class="button" disabled={offset === 0} onClick={() => change({ offset: Math.max(0, offset - PAGE) || null }, true)}>Before</button>
              <span class="quiet">rows {count(offset + 1)} to {count(offset + shown.rows.length)}</span>
              <button type="button" class="button" disabled={!shown.cut} onClick={() => change({ offset: offset + PAGE }, true)}>More</button>
            </p>
          )}
          <p class="fine">{shown.describe}</p>
          <Command label="All of it, as CSV" text={`afterimage export ${withoutPublic(shown.name)} --at ${shown.lsn}`} />
        </section>
      )}
    </main>
  );
}

export function DifferencesPage({ me }: { me: Me }) {
  const { query } = usePlace();
  const name = query.get("name") ?? "", from = query.get("from") ?? "", to = query.get("to") ?? "";
  const tables = useLoaded<{ tables: Table[] }>("tables");
  const found = useLoaded<Differences>(name && from ? "differences" : null, { name, from, to });
  const shown = found.value;
  return (
    <main id="main" tabIndex={-1}>
      <h1>Differences {name && <span class="code">{withoutPublic(name)}</span>}</h1>
      <div class="card">
        <div class="inline-form">
          <TableChoice label="Table" tables={tables.value?.tables ?? []} value={name} onChange={(next) => change({ name: next })} />
          <PointField label="From" value={from} onChange={(next) => change({ from: next })} placeholder="15m ago" />
          <PointField label="To" value={to} onChange={(next) => change({ to: next })} placeholder="now" />
        </div>
        <Slider me={me} value={from} label="From" atStart onChange={(next) => change({ from: next }, true)} />
        <Slider me={me} value={to} label="To" onChange={(next) => change({ to: next }, true)} />
      </div>
      {tables.trouble && <Problem trouble={tables.trouble} again={tables.again} />}
      {found.trouble && <Problem trouble={found.trouble} again={found.again} />}
      {(!name || !from) && <div class="empty"><p><strong>Choose a table and two times.</strong></p><p>Each row that differs is shown with what it was and what it became.</p></div>}
      {found.loading && !shown && !found.trouble && <Busy what="Comparing" />}
      {shown && (
        <section class="card" aria-labelledby="differences-title" aria-busy={found.loading}>
          <h2 id="differences-title"><Tally counts={shown.counts} /></h2>
          {shown.rows.length === 0 ? <p class="quiet">Nothing differs.</p> : <ChangeTable table={shown.name} columns={shown.columns} rows={shown.rows} caption={`Rows of ${name} that differ`} withTransaction />}
          {shown.cut && <p class="fine">The first {count(shown.rows.length)} are shown.</p>}
          <p class="fine">{shown.from.describe}</p><p class="fine">{shown.to.describe}</p>
          <Command label="The same on a terminal" text={`afterimage diff --from ${shown.from.lsn} --to ${shown.to.lsn} ${withoutPublic(shown.name)}`} />
          <Command label="Takes the table back to the first point; without --apply it plans" text={`afterimage restore ${withoutPublic(shown.name)} --to ${shown.from.lsn}`} />
        </section>
      )}
    </main>
  );
}

function PointField({ label, value, onChange, placeholder }: { label: string; value: string; onChange: (value: string | null) => void; placeholder: string }) {
  const [text, setText] = useState(value);
  const id = `point-${label}`;
  useEffect(() => setText(value), [value]);
  return (
    <form class="field" onSubmit={(event) => { event.preventDefault(); onChange(text.trim() || null); }}>
      <label for={id}><span>{label}</span></label>
      <input id={id} value={text} placeholder={placeholder} onInput={(event) => setText(event.currentTarget.value)} onBlur={() => text.trim() !== value && onChange(text.trim() || null)} aria-describedby="point-help" />
      <span id="point-help" class="away">A time with its zone, 15m ago, an LSN, before: or after: a transaction, or mark: a name</span>
    </form>
  );
}

/** From the archive's beginning to its end. What is being dragged is shown; what is let go is asked. */
function Slider({ me, value, label, atStart, onChange }: { me: Me; value: string; label: string; atStart?: boolean; onChange: (value: string | null) => void }) {
  const [least, most] = [me.from, Math.max(me.from + 1000, me.watermark_time)];
  // Browsers read a date into almost anything.
  const parsed = /^\d{4}-\d\d-\d\d[T ]/.test(value) ? Date.parse(value) : NaN;
  const placed = value === "" ? (atStart ? least : most) : Number.isFinite(parsed) ? Math.min(most, Math.max(least, parsed)) : null;
  const [moving, setMoving] = useState<number | null>(null);
  const at = moving ?? placed ?? most;
  const done = (next: number) => { setMoving(null); onChange(next >= most ? null : point(next)); };
  const step = Math.max(1, Math.round((most - least) / 2000));
  return (
    <label class="slider">
      <span>{label}</span>
      <input type="range" min={least} max={most} step={step} value={at} aria-valuetext={time(at)}
        onInput={(event) => setMoving(Number(event.currentTarget.value))} onChange={(event) => done(Number(event.currentTarget.value))} />
      <output class="nowrap">{moving === null && placed === null ? value : time(at, most - least < 600_000 ? 3 : 0)}</output>
    </label>
  );
}
