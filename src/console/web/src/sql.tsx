// SQL over the archive, with queries that are kept in this browser, and a simple chart.

import { useEffect, useRef, useState } from "preact/hooks";
import { post, Trouble, type Answer, type Me } from "./api";
import { count, counted, duration, short } from "./format";
import { announce, Busy, Copy, Problem, Scroll, transactionAddress, Value } from "./parts";
import { change, usePlace } from "./route";

const EXAMPLES: [string, string][] = [
  ["What there is", "SHOW TABLES"],
  ["Deletions by minute", "SELECT date_trunc('minute', ts) AS minute, sum(t['delete']) AS deleted\nFROM (SELECT ts, unnest(tables) AS t FROM afterimage.transactions)\nGROUP BY 1 ORDER BY 1"],
  ["Largest transactions", "SELECT lsn, ts, xid, changes\nFROM afterimage.transactions\nORDER BY changes DESC LIMIT 20"],
  ["Alerts", "SELECT ts, event, rule, severity, lsn, message\nFROM afterimage.alerts\nORDER BY ts DESC LIMIT 50"],
];

interface Saved { name: string; sql: string }
const read = (): Saved[] => {
  try {
    const found: unknown = JSON.parse(localStorage.getItem("queries") ?? "[]");
    return Array.isArray(found) ? found.filter((one): one is Saved => typeof one?.name === "string" && typeof one?.sql === "string") : [];
  } catch { return []; }
};

export function SqlPage({ me }: { me: Me }) {
  const { query } = usePlace();
  const asked = query.get("q") ?? "";
  const [text, setText] = useState(asked);
  const [answer, setAnswer] = useState<Answer | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [running, setRunning] = useState<AbortController | null>(null);
  const [saved, setSaved] = useState(read);
  const [name, setName] = useState("");
  const runs = useRef(0);
  const run = async (sql: string) => {
    if (!sql.trim()) return;
    running?.abort();
    const abort = new AbortController(), round = (runs.current += 1);
    setRunning(abort);
    setTrouble(null);
    try {
      const told = await post<Answer>("sql", { sql }, abort.signal);
      if (round !== runs.current) return;
      setAnswer(told);
      announce(`${counted(told.rows.length, "row")}`);
    } catch (error) {
      if (round !== runs.current) return;
      setAnswer(null);
      if (!abort.signal.aborted) setTrouble(error instanceof Trouble ? error : new Trouble(0, String(error), null, null));
    }
    setRunning(null);
  };
  // A link to a query shows what it answers.
  useEffect(() => { setText(asked); if (asked) void run(asked); }, [asked]);
  const start = () => { if (text === asked) void run(text); else change({ q: text }); };
  const keep = (all: Saved[]) => { setSaved(all); try { localStorage.setItem("queries", JSON.stringify(all)); } catch { announce("This browser keeps nothing"); } };
  const examples = me.unlimited ? EXAMPLES : EXAMPLES.slice(0, 1);
  return (
    <main id="main" tabIndex={-1}>
      <h1>SQL</h1>
      <section class="card" aria-label="Query">
        <label class="field"><span>A statement that reads, in PostgreSQL's dialect <span class="quiet">· Ctrl+Enter runs it</span></span>
          <textarea id="sql" rows={Math.min(18, Math.max(5, text.split("\n").length + 1))} spellcheck={false} autocomplete="off" value={text} onInput={(event) => setText(event.currentTarget.value)}
            onKeyDown={(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); } }} placeholder="SELECT * FROM changes('orders', '1h ago') WHERE _op = 'delete'" />
        </label>
        <div class="inline-form">
          <button type="button" class="button primary" onClick={start} disabled={!text.trim()}>Run</button>
          {running && <button type="button" class="button" onClick={() => running.abort()}>Cancel</button>}
          <Copy text={`afterimage query ${quoted(text)}`} label="Copy as command" />
          <label class="field inline"><span>Examples</span>
            <select value="" onChange={(event) => { const one = examples[Number(event.currentTarget.value)]; event.currentTarget.value = ""; if (one) change({ q: one[1] }); }}>
              <option value="">choose one</option>{examples.map(([label], at) => <option key={label} value={at}>{label}</option>)}
            </select>
          </label>
        </div>
        <form class="inline-form" onSubmit={(event) => { event.preventDefault(); if (name.trim() && text.trim()) { keep([...saved.filter((one) => one.name !== name.trim()), { name: name.trim(), sql: text }]); announce("Kept in this browser"); setName(""); } }}>
          <label class="field inline"><span>Keep as</span><input value={name} onInput={(event) => setName(event.currentTarget.value)} placeholder="a name" /></label>
          <button class="button" disabled={!name.trim() || !text.trim()}>Keep</button>
          {saved.map((one) => (
            <span class="chip" key={one.name}>
              <button type="button" onClick={() => change({ q: one.sql })}>{one.name}</button>
              <button type="button" aria-label={`Forget ${one.name}`} onClick={() => keep(saved.filter((other) => other !== one))}>×</button>
            </span>
          ))}
        </form>
      </section>
      {running && <Busy what="Running" />}
      {trouble && <Problem trouble={trouble} />}
      {answer && <Rows answer={answer} />}
      {!answer && !trouble && !running && <div class="empty"><p><strong>The archive is only read.</strong></p><p>Tables as they were, their changes and versions, the archive's logs: an example above is a beginning.</p></div>}
    </main>
  );
}

const quoted = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;

function Rows({ answer }: { answer: Answer }) {
  const numeric = answer.columns.map((column) => /^(smallint|integer|bigint|real|double precision|numeric)$/.test(column.type));
  return (
    <section class="card" aria-labelledby="answer-title">
      <h2 id="answer-title">{counted(answer.rows.length, "row")}{answer.cut && " shown"} <span class="quiet">{duration(answer.took_ms)}</span></h2>
      {answer.cut && <p class="cut-note">Cut after {count(answer.most)} rows: there are more. Aggregate, add LIMIT, or use the command.</p>}
      <Bars answer={answer} numeric={numeric} />
      {answer.rows.length > 0 && (
        <Scroll label="Rows">
          <table class="rows">
            <caption class="away">Rows of the query</caption>
            <thead><tr>{answer.columns.map((column, at) => <th scope="col" key={at} class={numeric[at] ? "number" : ""}>{column.name} <span class="type">{column.type}</span></th>)}</tr></thead>
            <tbody>{answer.rows.map((row, i) => <tr key={i}>{row.map((value, j) => <td key={j} class={numeric[j] ? "number" : ""}>{value !== null && answer.columns[j]!.type === "pg_lsn" ? <a href={transactionAddress(value)} class="code">{value}</a> : <Value text={value} />}</td>)}</tr>)}</tbody>
          </table>
        </Scroll>
      )}
      {answer.rows.length === 0 && <p class="quiet">No rows.</p>}
    </section>
  );
}

/** One text or time and one number are worth a picture. */
function Bars({ answer, numeric }: { answer: Answer; numeric: boolean[] }) {
  const of = numeric.indexOf(true), by = numeric.findIndex((is, at) => !is && at !== of);
  const [open, setOpen] = useState(true);
  if (of < 0 || by < 0 || answer.rows.length < 2 || answer.rows.length > 400) return null;
  const points = answer.rows.map((row) => ({ label: row[by] ?? "NULL", value: Number(row[of]) })).filter((one) => Number.isFinite(one.value));
  const most = Math.max(0, ...points.map((one) => one.value)), least = Math.min(0, ...points.map((one) => one.value));
  if (points.length < 2 || most === least) return null;
  const width = 1000, height = 160, wide = width / points.length, y = (value: number) => height - ((value - least) / (most - least)) * height;
  return (
    <details open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Chart of {answer.columns[of]!.name} by {answer.columns[by]!.name}</summary>
      <svg class="simple" viewBox={`0 0 ${width} ${height + 4}`} preserveAspectRatio="none" role="img" aria-label={`${answer.columns[of]!.name} by ${answer.columns[by]!.name}: from ${short(Math.min(...points.map((one) => one.value)))} to ${short(most)}, ${points[0]!.label} to ${points.at(-1)!.label}`}>
        {points.map((one, at) => <rect key={at} x={at * wide} width={Math.max(1, wide - Math.min(2, wide / 5))} y={Math.min(y(one.value), y(0))} height={Math.max(1, Math.abs(y(one.value) - y(0)))}><title>{`${one.label}: ${one.value}`}</title></rect>)}
      </svg>
      <p class="ends quiet"><span>{points[0]!.label}</span><span>up to {short(most)}</span><span>{points.at(-1)!.label}</span></p>
    </details>
  );
}

