// One transaction: who, what, when, the rows before and after, and how to take it back.

import { useEffect, useState } from "preact/hooks";
import { post, Trouble, type Changes, type Me, type Plan, type Transaction } from "./api";
import { ago, count, counted, duration, micros, tableName, withoutPublic } from "./format";
import { useLoaded } from "./load";
import { announce, Busy, ChangeTable, Command, Problem, Scroll, Tally, TransactionLink, Value } from "./parts";
import { address, change, usePlace } from "./route";

export function TransactionPage({ me }: { me: Me }) {
  const { query } = usePlace();
  const txn = query.get("txn") ?? "";
  const loaded = useLoaded<Transaction>(txn ? "transaction" : null, { txn });
  const one = loaded.value;
  useEffect(() => { document.title = one ? `Transaction ${one.xid ?? one.lsn} · Afterimage` : "Transaction · Afterimage"; }, [one]);
  if (!txn) return <Ask />;
  return (
    <main id="main" tabIndex={-1}>
      <h1>Transaction <span class="code">{one?.xid ?? txn}</span></h1>
      {loaded.trouble && <Problem trouble={loaded.trouble} again={loaded.again} />}
      {!one && !loaded.trouble && <Busy what="Reading the archive" />}
      {one && !one.limited && <Header one={one} me={me} />}
      {one && one.limited && <p class="card">Who ran it is in the archive's log, which tells of everybody's rows. Below are the rows that you may see.</p>}
      {one?.commands && <TakeBack one={one} me={me} />}
      {one && <Rows one={one} />}
    </main>
  );
}

function Ask() {
  const [txn, setTxn] = useState("");
  return (
    <main id="main" tabIndex={-1}>
      <h1>Transaction</h1>
      <form class="card inline-form" onSubmit={(event) => { event.preventDefault(); change({ txn: txn.trim() }); }}>
        <label class="field"><span>xid or commit LSN</span><input value={txn} onInput={(event) => setTxn(event.currentTarget.value)} placeholder="742 or 16/B374D848" required /></label>
        <button class="button primary">Show</button>
      </form>
    </main>
  );
}

function Header({ one, me }: { one: Transaction; me: Me }) {
  const around = address("/", { from: (one.time ?? 0) - 300_000, to: (one.time ?? 0) + 300_000, since: one.time, until: (one.time ?? 0) + 1000 });
  return (
    <section class="card" aria-label="Who, what, when">
      <dl class="facts">
        <div><dt>When</dt><dd>{micros(one.micros)} <span class="quiet">{ago(me.now - (one.time ?? 0))}</span> <a href={around}>on the timeline</a></dd></div>
        <div><dt>Who</dt><dd>{one.who ?? <span class="quiet">unknown: nothing was captured (afterimage init --context)</span>}{one.application && <> · <span class="quiet">claims to be</span> {one.application}</>}</dd></div>
        <div><dt>What</dt><dd><Tally counts={one.counts!} /> in {counted(one.tables.length, "table")}</dd></div>
        <div><dt>Commit LSN</dt><dd class="code">{one.lsn}</dd></div>
        {(one.events?.length ?? 0) > 0 && <div><dt>Noted</dt><dd>{one.events!.map((event, at) => <p key={at}><span class={`badge ${event.kind} ${event.severity ?? ""}`}>{event.severity ?? event.kind}</span> {event.label}</p>)}</dd></div>}
      </dl>
      {one.statements!.length > 0 && <Statements statements={one.statements!} />}
      {one.claims!.length > 0 && <details><summary>What the session says of itself, unverified</summary>{one.claims!.map((claim, at) => <pre key={at} tabIndex={0}>{claim}</pre>)}</details>}
      <Scroll label="Tables of this transaction">
        <table>
          <caption class="away">Tables of this transaction</caption>
          <thead><tr><th scope="col">Table</th><th scope="col" class="number">Inserted</th><th scope="col" class="number">Updated</th><th scope="col" class="number">Deleted</th><th scope="col" class="number">Truncated</th></tr></thead>
          <tbody>{one.tables.map((table) => (
            <tr key={table.name}><th scope="row">{withoutPublic(table.name)}</th>{table.counts!.map((n, at) => <td key={at} class={`number${at > 1 && n > 0 ? " lost" : ""}`}>{n === 0 ? <span class="quiet">0</span> : count(n)}</td>)}</tr>
          ))}</tbody>
        </table>
      </Scroll>
    </section>
  );
}

function Statements({ statements }: { statements: string[] }) {
  const shown = statements.slice(0, 5);
  return (
    <div class="statements">
      <h2>{statements.length === 1 ? "Statement" : "Statements"}</h2>
      {shown.map((text, at) => <pre key={at} tabIndex={0}><code>{text}</code></pre>)}
      {statements.length > shown.length && <details><summary>{counted(statements.length - shown.length, "more statement")}</summary>{statements.slice(5).map((text, at) => <pre key={at} tabIndex={0}><code>{text}</code></pre>)}</details>}
    </div>
  );
}

function TakeBack({ one, me }: { one: Transaction; me: Me }) {
  const [plan, setPlan] = useState<Plan | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => { setPlan(null); setTrouble(null); }, [one.lsn]);
  const make = async () => {
    setBusy(true);
    setTrouble(null);
    announce("Planning");
    try {
      setPlan(await post<Plan>("plan", { txn: one.lsn }));
      announce("The plan is there");
    } catch (error) {
      setTrouble(error instanceof Trouble ? error : new Trouble(0, String(error), null, null));
    }
    setBusy(false);
  };
  return (
    <section class="card" aria-labelledby="back-title">
      <div class="head"><h2 id="back-title">Taking it back</h2>
        {me.has_source && <button type="button" class="button primary" onClick={make} disabled={busy}>{plan ? "Plan again" : "Plan"}</button>}
      </div>
      {busy && <Busy what="Comparing the archive with the live rows" />}
      {trouble && <Problem trouble={trouble} again={make} />}
      {plan ? <Planned plan={plan} /> : (
        <>
          <p class="quiet">{me.has_source
            ? "Plan compares the archive with the live rows: what a restore would do, what depends on it, what today's constraints forbid. Nothing is written."
            : "No source is named, so the console cannot compare with the live rows. The command plans where the source is reached; it writes nothing without --apply."}</p>
          <Command label="Plans, and writes nothing" text={one.commands!.plan} />
          <Command label="One page for the bridge" text={one.commands!.incident} />
        </>
      )}
    </section>
  );
}

function Planned({ plan }: { plan: Plan }) {
  const tables = plan.plan.tables.filter((table) => table.insert + table.update + table.delete + table.skipped > 0);
  const free = plan.conflicts.length + plan.rejections.length === 0;
  return (
    <div class="planned">
      <Command main label={plan.rows_to_restore === 0 ? "Nothing is left to restore; the command would do nothing" : `Restores ${counted(plan.rows_to_restore, "row")} in about ${duration(plan.seconds * 1000)}, by ${plan.estimated_from}`} text={plan.command} />
      <p>{free ? "No later transaction depends on it, and today's constraints admit every row." : "The command says what becomes of what stands in its way:"}</p>
      {plan.conflicts.length > 0 && (
        <div>
          <h3>Conflicts: what depends on it</h3>
          <Scroll label="Conflicts"><table><caption class="away">Later transactions that depend on it</caption>
            <thead><tr><th scope="col">Transaction</th><th scope="col">How</th><th scope="col">Table</th><th scope="col" class="number">Rows</th></tr></thead>
            <tbody>{plan.conflicts.map((one, at) => <tr key={at}><td><TransactionLink lsn={one.lsn} xid={one.xid} /></td><td>{one.how.replaceAll("-", " ")}</td><td>{tableName(one.table)}</td><td class="number">{count(one.rows)}</td></tr>)}</tbody>
          </table></Scroll>
        </div>
      )}
      {plan.rejections.length > 0 && (
        <div>
          <h3>Rejections: what today's constraints forbid</h3>
          {plan.rejections.map((one, at) => (
            <div class="rejection" key={at}>
              <p><strong>{counted(one.rows, "row")}</strong> of {tableName(one.table)} by {one.kind.replaceAll("_", " ")} <span class="code">{one.name}</span>{one.since && <>, since transaction <TransactionLink lsn={one.since.lsn} xid={one.since.xid} />{one.since.user && <> by {one.since.user}</>}</>}.</p>
              {one.definition && <pre tabIndex={0}><code>{one.definition}</code></pre>}
              {one.samples.length > 0 && <details><summary>{counted(one.samples.length, "sample")}</summary><ul>{one.samples.map((sample, i) => <li key={i}><span class="code">{sample.key}</span>{sample.reason && <>: {sample.reason}</>}</li>)}</ul></details>}
            </div>
          ))}
        </div>
      )}
      <h3>What it would do</h3>
      <Scroll label="What it would do"><table><caption class="away">Rows that a restore would touch, by table</caption>
        <thead><tr><th scope="col">Table</th><th scope="col" class="number">Inserted again</th><th scope="col" class="number">Set back</th><th scope="col" class="number">Deleted</th><th scope="col" class="number">Left as they are</th></tr></thead>
        <tbody>{tables.map((table, at) => <tr key={at}><th scope="row">{tableName(table.name)}</th><td class="number">{count(table.insert)}</td><td class="number">{count(table.update)}</td><td class="number">{count(table.delete)}</td><td class="number">{count(table.skipped)}</td></tr>)}
          {tables.length === 0 && <tr><td colSpan={5}>no rows</td></tr>}</tbody>
      </table></Scroll>
      {tables.some((table) => table.samples.length > 0) && (
        <details><summary>Samples</summary>{tables.map((table, at) => <div key={at}><h4>{tableName(table.name)}</h4><ul class="plain">{table.samples.slice(0, 10).map((sample, i) => <li key={i}><span class="badge">{sample.class}</span> <span class="code">{sample.key}</span>{sample.changes.map((one) => <span key={one.column} class="differs"> {one.column}: <del><Value text={one.now} /></del> → <ins><Value text={one.then} /></ins></span>)}</li>)}</ul></div>)}</details>
      )}
      {plan.tenants.length > 0 && (
        <div><h3>Tenants</h3><ul class="plain tenants">{plan.tenants.slice(0, 30).map((one, at) => <li key={at}><span class="code">{one.column}={one.value ?? "NULL"}</span> <span class="quiet">{counted(one.rows, "row")} of {tableName(one.table)}</span></li>)}</ul>{plan.tenants.length > 30 && <p class="fine">And {count(plan.tenants.length - 30)} more.</p>}</div>
      )}
      {plan.plan.notes.length > 0 && <div><h3>To know</h3><ul>{plan.plan.notes.map((note, at) => <li key={at}>{note.table ? `${tableName(note.table)}: ` : ""}{note.text}</li>)}</ul></div>}
    </div>
  );
}

function Rows({ one }: { one: Transaction }) {
  const { query } = usePlace();
  const named = query.get("name");
  const first = [...one.tables].sort((a, b) => ((b.counts?.[2] ?? 0) + (b.counts?.[3] ?? 0)) - ((a.counts?.[2] ?? 0) + (a.counts?.[3] ?? 0)))[0]?.name ?? "";
  const name = named && one.tables.some((table) => table.name === named) ? named : first;
  const offset = Math.max(0, Number(query.get("offset")) || 0);
  const rows = useLoaded<Changes>(name ? "changes" : null, { txn: one.lsn, name, limit: PAGE, offset });
  if (one.tables.length === 0) return null;
  return (
    <section class="card" aria-labelledby="rows-title" aria-busy={rows.loading}>
      <div class="head">
        <h2 id="rows-title">Rows before and after</h2>
        <label class="field inline"><span>Table</span>
          <select value={name} onChange={(event) => change({ name: event.currentTarget.value, offset: null }, true)}>
            {one.tables.map((table) => <option key={table.name} value={table.name}>{withoutPublic(table.name)}{table.counts && ` (${count(table.counts.reduce((a, b) => a + b, 0))})`}</option>)}
          </select>
        </label>
      </div>
      {rows.trouble && <Problem trouble={rows.trouble} again={rows.again} />}
      {!rows.value && !rows.trouble && <Busy what="Reading rows" />}
      {rows.value && rows.value.rows.length === 0 && <p class="quiet">None that you may see.</p>}
      {rows.value && rows.value.rows.length > 0 && <ChangeTable table={rows.value.name} columns={rows.value.columns} rows={rows.value.rows} caption={`Rows of ${withoutPublic(rows.value.name)}, before and after`} />}
      {(offset > 0 || rows.value?.cut) && (
        <p class="pages">
          <button type="button" class="button" disabled={offset === 0} onClick={() => change({ offset: Math.max(0, offset - PAGE) || null }, true)}>Before</button>
          <span class="quiet">rows {count(offset + 1)} to {count(offset + (rows.value?.rows.length ?? 0))}</span>
          <button type="button" class="button" disabled={!rows.value?.cut} onClick={() => change({ offset: offset + PAGE }, true)}>More</button>
        </p>
      )}
    </section>
  );
}

const PAGE = 50;
