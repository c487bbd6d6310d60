// One row: its versions, and which transaction gave each column its value.

import { useEffect, useState } from "preact/hooks";
import type { RowPast, Table } from "./api";
import { counted, micros, withoutPublic } from "./format";
import { useLoaded } from "./load";
import { Busy, ChangeTable, Command, More, Operation, Problem, Scroll, TableChoice, TransactionLink, Value } from "./parts";
import { address, change, go, usePlace } from "./route";

export function RowPage() {
  const { query } = usePlace();
  const [name, key] = [query.get("name") ?? "", query.getAll("key")];
  const past = useLoaded<RowPast>(name && key.length > 0 ? "row" : null, { name, key });
  return (
    <main id="main" tabIndex={-1}>
      <h1>Row {name && key.length > 0 && <span class="code">{withoutPublic(name)} {key.join(" ")}</span>}</h1>
      <Find name={name} wanted={key} />
      {past.trouble && <Problem trouble={past.trouble} again={past.again} />}
      {past.loading && !past.value && <Busy what="Reading its past" />}
      {past.value && past.value.versions.length === 0 && <div class="empty"><p><strong>The archive has no change of this row.</strong></p><p>It may be as the first base image has it. <a href={address("/table", { name })}>The table as it is</a></p></div>}
      {past.value && past.value.versions.length > 0 && <><Blame past={past.value} /><Versions past={past.value} /></>}
      {past.value && <section class="card"><Command label="The same on a terminal" text={past.value.command} /></section>}
    </main>
  );
}

function Find({ name, wanted }: { name: string; wanted: string[] }) {
  const tables = useLoaded<{ tables: Table[] }>("tables");
  const [values, setValues] = useState(wanted);
  useEffect(() => setValues(wanted), [wanted.join("\u0000"), name]);
  const table = tables.value?.tables.find((one) => one.name === name);
  const columns = table?.columns.filter((column) => column.key) ?? [];
  return (
    <form class="card inline-form" onSubmit={(event) => { event.preventDefault(); go(address("/row", { name, key: columns.map((_, at) => values[at] ?? "") })); }}>
      <TableChoice label="Table" tables={tables.value?.tables ?? []} value={name} onChange={(next) => change({ name: next, key: [] })} />
      {columns.map((column, at) => (
        <label class="field" key={column.name}><span>{column.name}</span><input required value={values[at] ?? ""} onInput={(event) => { const next = [...values]; next[at] = event.currentTarget.value; setValues(next); }} /></label>
      ))}
      {columns.length > 0 && <button class="button primary">Show</button>}
      {table && !table.unique_key && <p class="quiet">Its rows have no key that tells them apart; SQL finds them by any column.</p>}
      {tables.trouble && <Problem trouble={tables.trouble} />}
    </form>
  );
}

function Blame({ past }: { past: RowPast }) {
  const gone = past.versions[0]!.new === null;
  return (
    <section class="card" aria-labelledby="blame-title">
      <h2 id="blame-title">{gone ? "What it was last, and who set each column" : "What it is, and who set each column"}</h2>
      {gone && <p class="lost-note"><Operation op={past.versions[0]!.op} /> by transaction <TransactionLink lsn={past.versions[0]!.lsn} xid={past.versions[0]!.xid} />, {micros(past.versions[0]!.micros)}</p>}
      <Scroll label="Blame">
        <table>
          <caption class="away">The transaction that gave each column its value</caption>
          <thead><tr><th scope="col">Column</th><th scope="col">Value</th><th scope="col">Set by</th><th scope="col">When</th></tr></thead>
          <tbody>{past.blame.map((one) => (
            <tr key={one.column}>
              <th scope="row">{one.column}</th><td class="value"><Value text={one.value} /></td>
              <td class="nowrap">{one.set_by ? <><TransactionLink lsn={one.set_by.lsn} xid={one.set_by.xid} /> <Operation op={one.set_by.op} /></> : <span class="quiet">before the archive</span>}</td>
              <td class="nowrap quiet">{one.set_by && micros(one.set_by.micros)}</td>
            </tr>
          ))}</tbody>
        </table>
      </Scroll>
    </section>
  );
}

function Versions({ past }: { past: RowPast }) {
  return (
    <section class="card" aria-labelledby="versions-title">
      <h2 id="versions-title">{counted(past.versions.length, "change")}, newest first</h2>
      <ChangeTable table={past.name} columns={past.columns} rows={past.versions} caption={`Versions of the row, newest first`} withTransaction />
      <More cut={past.cut} shown={past.versions.length} what="change" />
    </section>
  );
}
