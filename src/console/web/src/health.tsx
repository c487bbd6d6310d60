// Whether all is well: how far each step is, the slot's headroom, checks, drills, tables.

import { useEffect } from "preact/hooks";
import type { Finding, Health } from "./api";
import { ago, bytes, count, counted, duration, time } from "./format";
import { useLoaded } from "./load";
import { Busy, Problem, Scroll } from "./parts";

export function HealthPage() {
  const loaded = useLoaded<Health>("health");
  useEffect(() => {
    const timer = setInterval(() => document.visibilityState === "visible" && loaded.again(), 10_000);
    return () => clearInterval(timer);
  }, []);
  const health = loaded.value;
  return (
    <main id="main" tabIndex={-1}>
      <h1>Health</h1>
      {loaded.trouble && <Problem trouble={loaded.trouble} again={loaded.again} />}
      {!health && !loaded.trouble && <Busy what="Looking at source and archive" />}
      {health && <><Verdict findings={health.findings} /><div class="pair"><Ladder health={health} /><Slot health={health} /></div><Checks health={health} /><Tables health={health} /></>}
    </main>
  );
}

const SIGNS = { ok: "✓", warning: "!", failed: "✕" }, NAMES = { ok: "Well", warning: "To look at", failed: "Failed" };

function Verdict({ findings }: { findings: Finding[] }) {
  const order = { failed: 0, warning: 1, ok: 2 };
  const sorted = [...findings].sort((a, b) => order[a.state] - order[b.state]);
  const worst = sorted[0]?.state ?? "ok";
  const wrong = findings.filter((one) => one.state !== "ok").length;
  return (
    <section class="card" aria-labelledby="verdict-title">
      <h2 id="verdict-title"><span class={`state ${worst}`}><span aria-hidden="true">{SIGNS[worst]}</span> {worst === "ok" ? "All is well" : worst === "warning" ? `${counted(wrong, "thing")} to look at` : "Something has failed"}</span></h2>
      <ul class="findings">{sorted.map((one, at) => (
        <li key={at}><span class={`state ${one.state}`}><span aria-hidden="true">{SIGNS[one.state]}</span><span class="away">{NAMES[one.state]}:</span></span><span class="level">{one.level}</span><span class="text">{one.details}{one.remedy && <><br /><span class="quiet">{one.remedy}</span></>}</span></li>
      ))}</ul>
    </section>
  );
}

const position = (lsn: string | null | undefined) => {
  const [high, low] = (lsn ?? "").split("/");
  return high && low ? parseInt(high, 16) * 2 ** 32 + parseInt(low, 16) : null;
};

function Ladder({ health: { vitals } }: { health: Health }) {
  const { source } = vitals, slot = source?.slot;
  const durable = position(vitals.watermark) ?? 0;
  const decoded = vitals.archiver && (position(vitals.archiver.decoded) ?? 0) > durable ? vitals.archiver.decoded : vitals.watermark;
  const steps: [string, string | null | undefined, string][] = [
    ["Source", source?.position, "where the source's log is"], ["Sent", slot?.sent, "by the source"], ["Received", slot?.received, "by the archiver"],
    ["Decoded", source ? decoded : null, "whole transactions"], ["Durable", vitals.watermark, "in the archive: the watermark"], ["Acknowledged", slot?.confirmed_flush, "to the slot"],
  ];
  const top = position(source?.position) ?? durable;
  return (
    <section class="card" aria-labelledby="ladder-title">
      <h2 id="ladder-title">How far each step is</h2>
      <Scroll label="How far each step is"><table class="ladder"><caption class="away">The position in the source's log that each step has reached</caption>
        <thead><tr><th scope="col">Step</th><th scope="col">LSN</th><th scope="col" class="number">Behind the source</th></tr></thead>
        <tbody>{steps.map(([name, lsn, what]) => {
          const at = position(lsn), behind = at === null ? null : Math.max(0, top - at);
          return <tr key={name}><th scope="row">{name} <span class="quiet">{what}</span></th><td class="code">{lsn ?? <span class="quiet">unknown</span>}</td><td class="number">{behind === null ? "" : behind === 0 ? "0 B" : bytes(behind)}</td></tr>;
        })}</tbody>
      </table></Scroll>
      <p class="fine">{source ? `The archive is ${bytes(source.lag_bytes)} and ${duration(source.lag_seconds * 1000)} behind.` : "The source is not looked at: start the console with --source to see its lag and slot."} The watermark is of {time(Date.parse(vitals.watermark_time))}.</p>
    </section>
  );
}

function Slot({ health: { vitals } }: { health: Health }) {
  const slot = vitals.source?.slot;
  const held = Math.max(0, slot?.held_bytes ?? 0), safe = slot?.safe_wal_size;
  const share = safe === null || safe === undefined ? null : held / Math.max(1, held + Math.max(0, safe));
  return (
    <section class="card" aria-labelledby="slot-title">
      <h2 id="slot-title">The slot</h2>
      {!slot && <p class="quiet">{vitals.source ? "The slot does not exist: changes are being lost. afterimage run records the gap and goes on." : "Unknown without the source."}</p>}
      {slot && <dl class="facts">
        <div><dt>Name</dt><dd class="code">{slot.name}</dd></div>
        <div><dt>Archiver</dt><dd>{slot.active_pid ? `connected, server process ${slot.active_pid}` : "none is running"}</dd></div>
        <div><dt>Holds back</dt><dd>{bytes(held)} of the source's log</dd></div>
        <div><dt>Headroom</dt><dd>{safe === null || safe === undefined ? "no limit is set (max_slot_wal_keep_size): the slot can fill the source's disk" : `${bytes(Math.max(0, safe))} until it is cut off`}
          {share !== null && <meter min={0} max={1} low={0.5} high={0.8} optimum={0} value={share} aria-label="Part of the slot's room that is used">{Math.round(share * 100)} %</meter>}</dd></div>
        <div><dt>State</dt><dd>{slot.wal_status}</dd></div>
      </dl>}
    </section>
  );
}

function Checks({ health: { vitals } }: { health: Health }) {
  const proofs = ["verify", "verify --deep", "drill"];
  const named = (name: string) => vitals.health.find((one) => one.check === name);
  const known = vitals.health;
  const never = proofs.filter((name) => !known.some((one) => one.check === name || one.check.startsWith(name.split(" ")[0]!)));
  return (
    <section class="card" aria-labelledby="checks-title">
      <h2 id="checks-title">Checks, proofs and drills</h2>
      {known.length === 0 ? <p class="quiet">None has run yet. <span class="code">afterimage verify</span> proves the archive whole, <span class="code">afterimage drill</span> restores it for practice; run does both as often as afterimage.toml says.</p> : (
        <Scroll label="Checks"><table><caption class="away">What each check came to last</caption>
          <thead><tr><th scope="col">Check</th><th scope="col">State</th><th scope="col">Last</th><th scope="col">Details</th></tr></thead>
          <tbody>{known.map((one) => {
            const state = one.status === "HEALTHY" ? "ok" : one.severity === "CRITICAL" || one.severity === "EMERGENCY" || one.status === "FAILED" ? "failed" : "warning";
            return <tr key={one.check}><th scope="row">{one.check}</th><td class="nowrap"><span class={`state ${state}`}><span aria-hidden="true">{SIGNS[state]}</span> {one.status.toLowerCase()}</span></td><td class="nowrap">{time(Date.parse(one.time))}<br /><span class="quiet">{ago(Date.now() - Date.parse(one.time))}</span></td><td>{one.details}{one.status !== "HEALTHY" && one.resolution && <><br /><span class="quiet">{one.resolution}</span></>}</td></tr>;
          })}</tbody>
        </table></Scroll>
      )}
      {never.length > 0 && known.length > 0 && !named("drill") && <p class="fine">Never run: {never.map((name) => `afterimage ${name}`).join(", ")}.</p>}
    </section>
  );
}

function Tables({ health: { tables } }: { health: Health }) {
  const sum = (of: (one: Health["tables"][number]) => number) => tables.reduce((total, one) => total + of(one), 0);
  return (
    <section class="card" aria-labelledby="tables-title">
      <h2 id="tables-title">{counted(tables.length, "table")} <span class="quiet">{bytes(sum((one) => one.change_bytes))} of changes, {bytes(sum((one) => one.image_bytes))} of base images</span></h2>
      <Scroll label="Tables"><table><caption class="away">How much the archive has of each table</caption>
        <thead><tr><th scope="col">Table</th><th scope="col" class="number">Changes</th><th scope="col" class="number">Files</th><th scope="col" class="number">Base images</th><th scope="col" class="number">Files</th></tr></thead>
        <tbody>{tables.map((one) => { const name = one.schema === "public" ? one.table : `${one.schema}.${one.table}`; return <tr key={name}><th scope="row"><a href={`/table?name=${encodeURIComponent(`${one.schema}.${one.table}`)}`}>{name}</a></th><td class="number">{bytes(one.change_bytes)}</td><td class="number">{count(one.change_files)}</td><td class="number">{bytes(one.image_bytes)}</td><td class="number">{count(one.image_files)}</td></tr>; })}</tbody>
      </table></Scroll>
    </section>
  );
}
