// The timeline: how much was changed when, and the transactions of what was chosen in it.

import { useEffect, useState } from "preact/hooks";
import { type Happening, type Listed, type Me, type Timeline } from "../api";
import { count, counted, duration, micros, time, withoutPublic } from "../format";
import { useLoaded } from "../load";
import { announce, Busy, Problem, Scroll, Tally, transactionAddress } from "../parts";
import { change, usePlace } from "../route";
import { Chart, label, useWidth, type Chosen } from "./chart";
import { KINDS } from "./kinds";

const SHORTEST = 1000;
/** Transactions that are listed at first. */
const FEW = 10;
const RANGES = [["15 min", 9e5], ["1 h", 36e5], ["24 h", 864e5], ["7 d", 6048e5], ["30 d", 2592e6], ["1 y", 31536e6]] as const;

export function TimelinePage({ me }: { me: Me }) {
  const { query } = usePlace();
  const [box, width] = useWidth<HTMLElement>();
  const number = (name: string) => (query.has(name) && query.get(name) !== "" && Number.isFinite(Number(query.get(name))) ? Math.round(Number(query.get(name))) : undefined);
  const [from, to] = [number("from"), number("to")];
  const filter = { table: query.getAll("table"), app: query.getAll("app"), tenant: query.get("tenant") ?? "" };
  const chosen: Chosen | null = number("since") !== undefined && number("until") !== undefined ? { from: number("since")!, to: number("until")! } : null;
  const bars = width === 0 ? 0 : Math.max(40, Math.min(600, Math.floor((width - 60) / 4)));
  const question = { from, to, bars, ...filter };
  const drawn = useLoaded<Timeline>(bars === 0 ? null : "timeline", question);
  const shown = drawn.value;
  const events = useLoaded<{ events: Happening[]; more: number }>(shown ? "events" : null, { from: shown?.from, to: shown?.to });
  useFollowing(shown, drawn.again, from === undefined && to === undefined);
  const logScale = query.get("scale") === "log";

  const zoom = (a: number, b: number) => {
    if (b - a < SHORTEST) { const middle = (a + b) / 2; a = Math.floor(middle - SHORTEST / 2); b = a + SHORTEST; }
    change({ from: Math.max(0, Math.round(a)), to: Math.round(b), since: null, until: null });
    announce(`From ${time(a)} to ${time(b)}`);
  };
  const scale = (factor: number, at: number) => {
    if (!shown) return;
    const span = Math.min(100 * 365 * 864e5, (shown.to - shown.from) * factor), share = (at - shown.from) / (shown.to - shown.from);
    zoom(at - span * share, at + span * (1 - share));
  };
  const move = (share: number) => shown && zoom(shown.from + (shown.to - shown.from) * share, shown.to + (shown.to - shown.from) * share);
  const all = () => change({ from: Math.max(0, Math.floor(Math.min(me.from, shown?.from ?? me.from)) - 1000), to: me.now + 1000, since: null, until: null });

  return (
    <main id="main" tabIndex={-1} ref={box}>
      <h1>Timeline <span class="quiet">of {me.database}</span></h1>
      <div class="bar">
        <Range shown={shown} me={me} zoom={zoom} scale={scale} move={move} all={all} />
        <Filters shown={shown} me={me} filter={filter} logScale={logScale} />
      </div>
      {drawn.trouble && <Problem trouble={drawn.trouble} again={drawn.again} />}
      {!shown && !drawn.trouble && <Busy what="Counting changes" />}
      {shown && (
        <section class="card" aria-label="Changes over time">
          <Legend shown={shown} happenings={events.value?.events ?? []} loading={drawn.loading} />
          <Chart drawn={shown} happenings={events.value?.events ?? []} chosen={chosen} log={logScale}
            onZoom={zoom} onScale={scale} onMove={move} onAll={all}
            onChoose={(one) => { change({ since: one.from, until: one.to }); requestAnimationFrame(() => document.getElementById("transactions")?.scrollIntoView({ block: "nearest" })); }} />
          <Honesty shown={shown} />
          <AsTable shown={shown} />
        </section>
      )}
      {shown && shown.bars.length === 0 && <Empty me={me} filtered={filter.table.length + filter.app.length > 0 || filter.tenant !== ""} all={all} />}
      {shown && <Transactions chosen={chosen} shown={shown} filter={filter} />}
      {(events.value?.events.length ?? 0) > 0 && <Happenings happenings={events.value!.events} more={events.value!.more} zoom={zoom} />}
    </main>
  );
}

/** While the log is being read it is asked often, and where the present is shown now and then. */
function useFollowing(shown: Timeline | null, again: () => void, present: boolean) {
  const whole = shown?.progress?.whole ?? true;
  useEffect(() => {
    if (whole && !present) return undefined;
    const timer = setInterval(() => document.visibilityState === "visible" && again(), whole ? 5000 : 700);
    return () => clearInterval(timer);
  }, [whole, present]);
}

function Range({ shown, me, zoom, scale, move, all }: { shown: Timeline | null; me: Me; zoom: (a: number, b: number) => void; scale: (factor: number, at: number) => void; move: (share: number) => void; all: () => void }) {
  const middle = shown ? (shown.from + shown.to) / 2 : 0;
  return (
    <div class="range" role="group" aria-label="Range of time">
      <button type="button" class="button icon" onClick={() => move(-0.5)} aria-label="Earlier">←</button>
      <button type="button" class="button icon" onClick={() => scale(2, middle)} aria-label="Zoom out">−</button>
      <button type="button" class="button icon" onClick={() => scale(0.5, middle)} aria-label="Zoom in">+</button>
      <button type="button" class="button icon" onClick={() => move(0.5)} aria-label="Later">→</button>
      <label class="field inline"><span class="away">Show the last</span>
        <select value="" onChange={(event) => { const span = Number(event.currentTarget.value); event.currentTarget.value = ""; if (span) zoom(me.now - span, me.now); }}>
          <option value="">last …</option>
          {RANGES.map(([text, span]) => <option key={text} value={span}>last {text}</option>)}
        </select>
      </label>
      <button type="button" class="button" onClick={all}>Everything</button>
      {shown && <span class="quiet nowrap span">{duration(shown.to - shown.from)} <span class="wide">from {time(shown.from)}</span></span>}
    </div>
  );
}

function Filters({ shown, me, filter, logScale }: { shown: Timeline | null; me: Me; filter: { table: string[]; app: string[]; tenant: string }; logScale: boolean }) {
  const [tenant, setTenant] = useState(filter.tenant);
  useEffect(() => setTenant(filter.tenant), [filter.tenant]);
  const option = (name: string, counts: number[]) => `${withoutPublic(name)} (${count(counts.reduce((a, b) => a + b, 0))})`;
  const tables = useLoaded<{ tables: { name: string }[] }>(me.unlimited ? null : "tables");
  const offered = me.unlimited ? (shown?.tables ?? []).flatMap((one) => (one.name ? [{ name: one.name, text: option(one.name, one.counts) }] : []))
    : (tables.value?.tables ?? []).map((one) => ({ name: one.name, text: withoutPublic(one.name) }));
  const schemas = [...new Set(offered.map((one) => one.name.split(".")[0]!))].filter((schema) => schema !== "public");
  const current = filter.table[0] ?? "";
  return (
    <div class="filters">
      <label class="field"><span>Table</span>
        <select value={current} onChange={(event) => change({ table: event.currentTarget.value || null })}>
          <option value="">all tables</option>
          {current && !offered.some((one) => one.name === current) && <option value={current}>{current}</option>}
          {offered.map((one) => <option key={one.name} value={one.name}>{one.text}</option>)}
          {schemas.map((schema) => <option key={schema} value={`${schema}.*`}>{schema}.*</option>)}
        </select>
      </label>
      {me.unlimited && (
        <label class="field"><span>Application</span>
          <select value={filter.app[0] ?? ""} onChange={(event) => change({ app: event.currentTarget.value || null })}>
            <option value="">all applications</option>
            {filter.app[0] && !(shown?.applications ?? []).some((one) => (one.name || "-") === filter.app[0]) && <option value={filter.app[0]}>{filter.app[0]}</option>}
            {(shown?.applications ?? []).flatMap((one) => (one.name === null ? [] : [<option key={one.name} value={one.name || "-"}>{option(one.name || "unknown", one.counts)}</option>]))}
          </select>
        </label>
      )}
      <form class="field" onSubmit={(event) => { event.preventDefault(); change({ tenant: tenant.trim() || null }); }}>
        <label for="tenant"><span>Tenant</span></label>
        <input id="tenant" value={tenant} placeholder={me.tenant_columns[0] ?? "tenant"} onInput={(event) => setTenant(event.currentTarget.value)} onBlur={() => tenant.trim() !== filter.tenant && change({ tenant: tenant.trim() || null })} />
      </form>
      <label class="field"><span>Scale</span>
        <select value={logScale ? "log" : ""} onChange={(event) => change({ scale: event.currentTarget.value || null })}>
          <option value="">linear</option><option value="log">logarithmic</option>
        </select>
      </label>
    </div>
  );
}

function Legend({ shown, happenings, loading }: { shown: Timeline; happenings: Happening[]; loading: boolean }) {
  const sum = shown.bars.reduce((sum, [, ...counts]) => sum.map((n, at) => n + counts[at]!), [0, 0, 0, 0]);
  const kinds = [...new Set(happenings.map((one) => one.kind))];
  return (
    <p class="legend" aria-busy={loading}>
      {["insert", "update", "delete", "truncate"].map((op, at) => (sum[at] || at < 3) ? <span key={op}><i class={`swatch ${op}`} aria-hidden="true" />{["inserted", "updated", "deleted", "truncations"][at]} <b>{count(sum[at]!)}</b></span> : null)}
      {kinds.map((kind) => <span key={kind} class={`happening-sign ${kind}`}><i aria-hidden="true">{KINDS[kind].sign}</i> {KINDS[kind].name.toLowerCase()}</span>)}
    </p>
  );
}

function Honesty({ shown }: { shown: Timeline }) {
  const { progress } = shown;
  return (
    <p class="fine">
      {progress && !progress.whole && <strong>Still reading the log: {Math.floor(progress.share * 100)} %. What is drawn is not all yet. </strong>}
      {progress?.whole && <>{counted(progress.changes, "change")} in {counted(progress.transactions, "transaction")} are counted in memory. </>}
      {shown.how === "rows" && <>Counted from the rows themselves. </>}
      {(shown.left_out?.length ?? 0) > 0 && <>Not counted, because no column names their tenant: {shown.left_out!.slice(0, 5).map(withoutPublic).join(", ")}{shown.left_out!.length > 5 && ` and ${shown.left_out!.length - 5} more`}. </>}
      Drawn in {duration(Math.max(1, shown.took_ms))}.
    </p>
  );
}

function AsTable({ shown }: { shown: Timeline }) {
  return (
    <details>
      <summary>As a table</summary>
      <Scroll label="Changes by time">
        <table>
          <caption class="away">Changes by time</caption>
          <thead><tr><th scope="col">From</th><th scope="col" class="number">Inserted</th><th scope="col" class="number">Updated</th><th scope="col" class="number">Deleted</th><th scope="col" class="number">Truncations</th></tr></thead>
          <tbody>{shown.bars.slice(0, 600).map(([at, ...counts]) => (
            <tr key={at}><th scope="row" class="nowrap"><a href={`?from=${at}&to=${at + shown.width}`}>{time(at, shown.width < 1000 ? 3 : 0)}</a></th>{counts.map((n, i) => <td key={i} class={`number${i > 1 && n > 0 ? " lost" : ""}`}>{count(n)}</td>)}</tr>
          ))}</tbody>
        </table>
      </Scroll>
    </details>
  );
}

function Empty({ me, filtered, all }: { me: Me; filtered: boolean; all: () => void }) {
  return (
    <div class="empty">
      <p><strong>Nothing was changed here.</strong></p>
      <p>{filtered ? "The filter leaves nothing in this range." : `The archive begins ${time(me.from)} and reaches ${time(me.watermark_time)}.`}</p>
      <p><button type="button" class="button" onClick={all}>Show everything</button>{filtered && <> <button type="button" class="button" onClick={() => change({ table: null, app: null, tenant: null })}>Clear the filter</button></>}</p>
    </div>
  );
}

function Transactions({ chosen, shown, filter }: { chosen: Chosen | null; shown: Timeline; filter: { table: string[]; app: string[]; tenant: string } }) {
  const { query } = usePlace();
  const order = query.get("order") === "time" ? "time" : "size";
  const range = chosen ?? shown;
  const limit = Math.min(1000, Math.max(FEW, Number(query.get("list")) || FEW));
  const listed = useLoaded<{ seen: number; transactions: Listed[] }>("transactions", { from: range.from, to: range.to, ...filter, order, limit, bars: 10 });
  useEffect(() => {
    if (chosen && listed.value && !listed.loading) announce(`${counted(listed.value.seen, "transaction")} listed`);
  }, [listed.value]);
  return (
    <section id="transactions" class="card" aria-labelledby="transactions-title" aria-busy={listed.loading}>
      <div class="head">
        <h2 id="transactions-title">Transactions <span class="quiet">{chosen ? label(range.from, range.to - range.from) : "of the whole range"}</span></h2>
        {chosen && <button type="button" class="button" onClick={() => change({ since: null, until: null })}>Whole range</button>}
        {chosen && <button type="button" class="button" onClick={() => change({ from: chosen.from, to: Math.max(chosen.to, chosen.from + SHORTEST), since: null, until: null })}>Zoom here</button>}
        <label class="field inline"><span>First</span>
          <select value={order} onChange={(event) => change({ order: event.currentTarget.value === "size" ? null : event.currentTarget.value }, true)}>
            <option value="size">most deletions</option><option value="time">newest</option>
          </select>
        </label>
      </div>
      {listed.trouble && <Problem trouble={listed.trouble} again={listed.again} />}
      {!listed.value && !listed.trouble && <Busy what="Reading the log" />}
      {listed.value && (listed.value.transactions.length === 0 ? <p class="quiet">None.</p> : <List transactions={listed.value.transactions} />)}
      {listed.value && listed.value.seen > listed.value.transactions.length && (
        <p class="pages"><span class="quiet">{count(listed.value.transactions.length)} of {count(listed.value.seen)} are listed.</span>{limit < 1000 && <button type="button" class="button small" onClick={() => change({ list: limit * 5 }, true)}>List more</button>}</p>
      )}
    </section>
  );
}

/** Beside the numbers their lengths, so that the one that stands out does. */
function List({ transactions }: { transactions: Listed[] }) {
  const lost = (one: Listed) => one.counts[2] + one.counts[3], all = (one: Listed) => lost(one) + one.counts[0] + one.counts[1];
  const most = Math.max(1, ...transactions.map(all)), mostLost = Math.max(1, ...transactions.map(lost));
  return (
    <ol class="transactions">
      {transactions.map((one) => (
        <li key={one.lsn} class={lost(one) * 4 >= mostLost ? "loses" : ""}>
          <a href={transactionAddress(one.lsn)}>
            <span class="what"><Tally counts={one.counts} />
              <svg class="length" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" focusable="false">
                <rect class="delete" fill="url(#hatch)" width={(100 * lost(one)) / most} height="6" />
                <rect class="rest" x={(100 * lost(one)) / most} width={(100 * (all(one) - lost(one))) / most} height="6" />
              </svg>
            </span>
            <span class="where">{one.tables.map((table) => withoutPublic(table.name)).join(", ")}{one.more_tables > 0 && ` and ${one.more_tables} more`}</span>
            <span class="when"><span class="nowrap">{micros(one.micros)}</span> <span class="quiet nowrap">xid {one.xid}</span></span>
            <span class="who">{one.who ?? "unknown"}{one.application && <span class="quiet"> · {one.application}</span>}</span>
            {one.statement && <code class="how">{one.statement}</code>}
          </a>
        </li>
      ))}
    </ol>
  );
}

function Happenings({ happenings, more, zoom }: { happenings: Happening[]; more: number; zoom: (a: number, b: number) => void }) {
  const newest = [...happenings].sort((a, b) => b.time - a.time);
  return (
    <section class="card" aria-labelledby="happenings-title">
      <h2 id="happenings-title">What else happened</h2>
      <ul class="happenings">
        {newest.slice(0, 100).map((one, at) => (
          <li key={at}>
            <span class={`badge ${one.kind} ${one.severity ?? ""}`}>{one.severity ?? KINDS[one.kind].name}</span>
            <span class="nowrap quiet">{time(one.time)}</span>
            <span class="text">{one.lsn ? <a href={one.kind === "mark" || one.kind === "deployment" ? `/differences?from=mark:${encodeURIComponent(one.label.replace(/ by [^ ]*$/, ""))}` : transactionAddress(one.lsn)}>{one.label}</a> : one.label}</span>
            <button type="button" class="button small" onClick={() => zoom(one.time - 30_000, (one.end ?? one.time) + 30_000)} aria-label={`Zoom to ${one.label}`}>Zoom</button>
          </li>
        ))}
      </ul>
      {more > 0 && <p class="fine">And {count(more)} more: zoom in.</p>}
    </section>
  );
}

