// Changes over time: what came and changed stands above the line, what was lost hangs below it, hatched and red.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Counts, Happening, Timeline } from "../api";
import { duration, short, time } from "../format";
import { announce, describeCounts } from "../parts";
import { KINDS } from "./kinds";

export interface Chosen { from: number; to: number }

interface Props {
  drawn: Timeline;
  happenings: Happening[];
  chosen: Chosen | null;
  log: boolean;
  onZoom: (from: number, to: number) => void;
  onChoose: (chosen: Chosen) => void;
  onMove: (share: number) => void;
  onScale: (factor: number, at: number) => void;
  onAll: () => void;
}

const TOP = 34, HEIGHT = 300, LEFT = 52, RIGHT = 8, AXIS = 26;

export function useWidth<T extends HTMLElement>() {
  const box = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    if (!box.current) return undefined;
    const observer = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  return [box, width] as const;
}

const up = (counts: Counts) => counts[0] + counts[1];
const down = (counts: Counts) => counts[2] + counts[3];

export function Chart({ drawn, happenings, chosen, log, onZoom, onChoose, onMove, onScale, onAll }: Props) {
  const [box, width] = useWidth<HTMLDivElement>();
  const [cursor, setCursor] = useState<number | null>(null);
  const [drag, setDrag] = useState<[number, number] | null>(null);
  const inner = Math.max(1, width - LEFT - RIGHT);
  const bars = Math.round((drawn.to - drawn.from) / drawn.width);
  const byBar = useMemo(() => {
    const found = new Map<number, Counts>();
    for (const [at, ...counts] of drawn.bars) found.set(Math.round((at - drawn.from) / drawn.width), counts);
    return found;
  }, [drawn]);
  const counts = (bar: number): Counts => byBar.get(bar) ?? [0, 0, 0, 0];
  const start = (bar: number) => drawn.from + bar * drawn.width;
  const x = (at: number) => LEFT + ((at - drawn.from) / (drawn.to - drawn.from)) * inner;
  const when = (px: number) => drawn.from + (Math.min(Math.max(px - LEFT, 0), inner) / inner) * (drawn.to - drawn.from);
  const barAt = (px: number) => Math.min(bars - 1, Math.max(0, Math.floor((when(px) - drawn.from) / drawn.width)));

  const scaled = (n: number) => (log ? Math.log10(1 + n) : n);
  const most = [...byBar.values()].reduce<[number, number]>(([a, b], one) => [Math.max(a, scaled(up(one))), Math.max(b, scaled(down(one)))], [0, 0]);
  // What was lost has room below even where nothing was, so that its absence is seen too.
  const total = Math.max(1e-9, most[0] + most[1]);
  const room = HEIGHT - TOP - AXIS;
  const above = room * Math.min(0.85, Math.max(0.3, most[0] / total));
  const base = TOP + above;
  const unit = Math.min(most[0] > 0 ? above / most[0] : Infinity, most[1] > 0 ? (room - above) / most[1] : Infinity);
  const h = (n: number) => (n === 0 || !Number.isFinite(unit) ? 0 : Math.max(1, scaled(n) * unit));
  const barWidth = Math.max(1, inner / bars);

  const [shownBar, setShownBar] = [cursor, setCursor];
  const tell = (bar: number) => announce(`${label(start(bar), drawn.width)}: ${describeCounts(counts(bar))}`);

  const move = (bar: number) => {
    const to = Math.min(bars - 1, Math.max(0, bar));
    setShownBar(to);
    tell(to);
  };
  const next = (from: number, by: 1 | -1) => {
    for (let bar = from + by; bar >= 0 && bar < bars; bar += by) if (byBar.has(bar)) return bar;
    return from + by;
  };
  const choose = (bar: number) => onChoose({ from: start(bar), to: start(bar + 1) });

  const keys = (event: KeyboardEvent) => {
    const at = shownBar ?? Math.floor(bars / 2);
    const done: Record<string, () => void> = {
      ArrowRight: () => (event.shiftKey ? onMove(0.25) : event.ctrlKey ? move(at + 1) : move(next(at, 1))),
      ArrowLeft: () => (event.shiftKey ? onMove(-0.25) : event.ctrlKey ? move(at - 1) : move(next(at, -1))),
      Home: () => move(next(-1, 1)),
      End: () => move(next(bars, -1)),
      d: () => { const worst = [...byBar].sort((a, b) => down(b[1]) - down(a[1]))[0]; if (worst) move(worst[0]); },
      "+": () => onScale(0.5, start(at) + drawn.width / 2),
      "=": () => onScale(0.5, start(at) + drawn.width / 2),
      "-": () => onScale(2, start(at) + drawn.width / 2),
      "0": onAll,
      Enter: () => choose(at),
      " ": () => choose(at),
      Escape: () => { setDrag(null); setShownBar(null); },
    };
    const act = done[event.key];
    if (act && !event.altKey && !event.metaKey) { event.preventDefault(); act(); }
  };

  const place = (event: PointerEvent) => event.clientX - (event.currentTarget as Element).getBoundingClientRect().left;
  const pointerDown = (event: PointerEvent) => {
    if (event.button !== 0) return;
    (event.currentTarget as Element).setPointerCapture(event.pointerId);
    setDrag([place(event), place(event)]);
  };
  const pointerMove = (event: PointerEvent) => {
    setShownBar(barAt(place(event)));
    if (drag) setDrag([drag[0], place(event)]);
  };
  const pointerUp = (event: PointerEvent) => {
    if (!drag) return;
    const [a, b] = [Math.min(drag[0], place(event)), Math.max(drag[0], place(event))];
    setDrag(null);
    if (b - a < 6) choose(nearest(a));
    else onZoom(Math.floor(when(a)), Math.ceil(when(b)));
  };
  // A finger, and a bar of one pixel, want some tolerance: of those near by the one that stands out most is meant.
  const nearest = (px: number) => {
    const at = barAt(px), within = Math.max(0, Math.ceil(7 / barWidth));
    let best = at;
    const weight = (bar: number) => { const one = counts(bar); return down(one) * 4 + up(one) - Math.abs(bar - at) * 1e-3; };
    for (let bar = at - within; bar <= at + within; bar += 1) if (bar >= 0 && bar < bars && byBar.has(bar) && weight(bar) > weight(best)) best = bar;
    return best;
  };

  const ticks = timeTicks(drawn.from, drawn.to, Math.max(2, Math.floor(inner / 110)));
  const shownCounts = shownBar === null ? null : counts(shownBar);
  return (
    <div class="chart" ref={box}>
      <div
        class="plot" tabIndex={0} role="group" aria-roledescription="chart" aria-describedby="chart-keys"
        aria-label={`Changes from ${time(drawn.from)} to ${time(drawn.to)}, one bar for ${duration(drawn.width)}`}
        onKeyDown={keys} onPointerDown={pointerDown} onPointerMove={pointerMove} onPointerUp={pointerUp}
        onPointerCancel={() => setDrag(null)} onPointerLeave={() => !drag && setShownBar(null)}
        onDblClick={(event) => onScale(0.25, when(event.clientX - (event.currentTarget as Element).getBoundingClientRect().left))}
      >
        {width > 0 && (
          <svg width={width} height={HEIGHT} aria-hidden="true" focusable="false">
            <defs>
              <pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
                <rect width="5" height="5" class="delete-ground" /><rect width="2" height="5" class="delete-line" />
              </pattern>
              <pattern id="dots" width="5" height="5" patternUnits="userSpaceOnUse">
                <rect width="5" height="5" class="truncate-ground" /><circle cx="2.5" cy="2.5" r="1.2" class="truncate-dot" />
              </pattern>
              <pattern id="gap" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
                <rect width="3" height="8" class="gap-line" />
              </pattern>
            </defs>
            <Grid base={base} unit={unit} above={above} below={room - above} log={log} right={width - RIGHT} />
            {ticks.map(({ at, text, strong }) => (
              <g key={at} class={strong ? "tick strong" : "tick"}>
                <line x1={x(at)} x2={x(at)} y1={TOP} y2={HEIGHT - AXIS} />
                <text x={x(at)} y={HEIGHT - 8} text-anchor="middle">{text}</text>
              </g>
            ))}
            {happenings.filter((one) => one.kind === "gap").map((gap, at) => (
              <rect key={at} class="gap" x={x(Math.max(gap.time, drawn.from))} width={Math.max(3, x(Math.min(gap.end ?? gap.time, drawn.to)) - x(Math.max(gap.time, drawn.from)))} y={TOP} height={room} fill="url(#gap)" />
            ))}
            {chosen && <rect class="chosen" x={x(Math.max(chosen.from, drawn.from)) - 1} width={Math.max(3, x(Math.min(chosen.to, drawn.to)) - x(Math.max(chosen.from, drawn.from)) + 2)} y={TOP} height={room} />}
            {[...byBar].map(([bar, one]) => {
              const left = LEFT + (bar * inner) / bars, wide = Math.max(1, barWidth - (barWidth > 4 ? 1 : 0));
              // A logarithm is one of the sum; its parts share it.
              const [all, lost] = [h(up(one)), h(down(one))];
              const updates = up(one) === 0 ? 0 : (all * one[1]) / up(one), deletes = down(one) === 0 ? 0 : (lost * one[2]) / down(one);
              return (
                <g key={bar}>
                  {updates > 0 && <rect class="update" x={left} width={wide} y={base - updates} height={updates} />}
                  {all - updates > 0 && <rect class="insert" x={left} width={wide} y={base - all} height={all - updates} />}
                  {deletes > 0 && <rect class="delete" fill="url(#hatch)" x={left} width={Math.max(2, wide)} y={base} height={deletes} />}
                  {lost - deletes > 0 && <rect class="truncate" fill="url(#dots)" x={left} width={Math.max(3, wide)} y={base + deletes} height={lost - deletes} />}
                </g>
              );
            })}
            <line class="base" x1={LEFT} x2={width - RIGHT} y1={base} y2={base} />
            {happenings.filter((one) => one.kind !== "gap").map((one, at) => (
              <g key={at} class={`happening ${one.kind} ${one.severity ?? ""}`} transform={`translate(${x(one.time)} 14)`}>
                <line y1={8} y2={HEIGHT - AXIS - 14} /><path d={KINDS[one.kind].shape} />
              </g>
            ))}
            {shownBar !== null && !drag && <rect class="cursor" x={LEFT + (shownBar * inner) / bars - 1} width={Math.max(3, barWidth + 2)} y={TOP - 4} height={room + 8} />}
            {drag && <rect class="drag" x={Math.min(...drag)} width={Math.abs(drag[1] - drag[0])} y={TOP} height={room} />}
          </svg>
        )}
      </div>
      <p class="readout" aria-hidden="true">
        {drag && Math.abs(drag[1] - drag[0]) >= 6 ? <>{label(when(Math.min(...drag)), when(Math.max(...drag)) - when(Math.min(...drag)))} · zoom to {duration(when(Math.max(...drag)) - when(Math.min(...drag)))}</>
          : shownBar !== null && shownCounts ? <>{label(start(shownBar), drawn.width)} · {describeCounts(shownCounts)}{near(happenings, start(shownBar), Math.max(drawn.width, ((drawn.to - drawn.from) / inner) * 8)).map((one) => ` · ${KINDS[one.kind].name}: ${one.label}`).slice(0, 2)}</>
            : <>One bar is {duration(drawn.width)}. Click a bar for its transactions; drag to zoom.</>}
      </p>
      <p id="chart-keys" class="away">Arrow keys move from bar to bar, Enter lists a bar's transactions, D goes to the bar with most deletions, plus and minus zoom, Shift with arrows moves the range, 0 shows everything.</p>
    </div>
  );
}

const near = (happenings: Happening[], from: number, width: number) => happenings.filter((one) => one.time >= from - width && one.time < from + width);

export function label(from: number, width: number): string {
  const digits = width < 1000 ? 3 : 0;
  const [a, b] = [time(from, digits), time(from + width, digits)];
  return a.slice(0, 10) === b.slice(0, 10) ? `${a.replace(" UTC", "")} – ${b.slice(11)}` : `${a.replace(" UTC", "")} – ${b}`;
}

function Grid({ base, unit, above, below, log, right }: { base: number; unit: number; above: number; below: number; log: boolean; right: number }) {
  if (!Number.isFinite(unit)) return <g class="tick"><text x={LEFT - 8} y={base + 4} text-anchor="end">0</text></g>;
  const lines = (length: number) => {
    const found: { value: number; px: number }[] = [];
    if (log) {
      for (let n = 10; Math.log10(1 + n) * unit <= length; n *= 10) found.push({ value: n, px: Math.log10(1 + n) * unit });
    } else {
      const step = nice(50 / unit);
      for (let n = step; n * unit <= length && found.length < 8; n += step) found.push({ value: n, px: n * unit });
    }
    return found;
  };
  return (
    <g class="tick">
      <text x={LEFT - 8} y={base + 4} text-anchor="end">0</text>
      {lines(above).map(({ value, px }) => <g key={value}><line x1={LEFT} x2={right} y1={base - px} y2={base - px} /><text x={LEFT - 8} y={base - px + 4} text-anchor="end">{short(value)}</text></g>)}
      {lines(below).map(({ value, px }) => <g key={-value}><line x1={LEFT} x2={right} y1={base + px} y2={base + px} /><text class="lost" x={LEFT - 8} y={base + px + 4} text-anchor="end">−{short(value)}</text></g>)}
    </g>
  );
}

function nice(least: number): number {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= least) ?? power * 10;
}

const S = 1000, M = 60 * S, H = 60 * M, D = 24 * H;
const STEPS = [10, 20, 50, 100, 200, 500, S, 2 * S, 5 * S, 10 * S, 15 * S, 30 * S, M, 2 * M, 5 * M, 10 * M, 15 * M, 30 * M, H, 2 * H, 3 * H, 6 * H, 12 * H, D, 2 * D, 7 * D, 14 * D, 30 * D, 90 * D, 365 * D];

function timeTicks(from: number, to: number, most: number) {
  const step = STEPS.find((one) => (to - from) / one <= most) ?? 3650 * D;
  const ticks: { at: number; text: string; strong: boolean }[] = [];
  for (let at = Math.ceil(from / step) * step; at <= to; at += step) {
    const iso = new Date(at).toISOString(), midnight = at % D === 0;
    const text = step >= D ? iso.slice(0, 10) : midnight ? iso.slice(5, 10) : step >= M ? iso.slice(11, 16) : step >= S ? iso.slice(11, 19) : iso.slice(14, 23);
    ticks.push({ at, text, strong: midnight && step < D });
  }
  return ticks;
}
