// The console: its frame, who is logged in, and which page the address names.

import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, post, Trouble, type Me } from "./api";
import { ago, time } from "./format";
import { HealthPage } from "./health";
import { Busy, Problem } from "./parts";
import { followLinks, usePlace } from "./route";
import { RowPage } from "./row";
import { SqlPage } from "./sql";
import { DifferencesPage, TablePage } from "./table";
import { TimelinePage } from "./timeline/page";
import { TransactionPage } from "./transaction";

const PAGES: [path: string, name: string][] = [["/", "Timeline"], ["/transaction", "Transaction"], ["/row", "Row"], ["/table", "Table"], ["/differences", "Differences"], ["/sql", "SQL"], ["/health", "Health"]];

function Console() {
  const { path } = usePlace();
  const [me, setMe] = useState<Me | null>(null);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const look = () => get<Me>("me").then((found) => { setMe(found); setTrouble(null); }, (error) => setTrouble(error instanceof Trouble ? error : new Trouble(0, String(error), null, null)));
  useEffect(() => {
    void look();
    const timer = setInterval(() => document.visibilityState === "visible" && look(), 10_000);
    const out = () => setTrouble(new Trouble(401, "", null, null));
    addEventListener("logged-out", out);
    return () => { clearInterval(timer); removeEventListener("logged-out", out); };
  }, []);
  useEffect(() => {
    const page = PAGES.find(([known]) => known === path); document.title = page ? `${page[1]} · Afterimage` : "Afterimage";
    // On a phone the pages' names are wider than the window.
    const nav = document.querySelector("nav"), link = nav?.querySelector<HTMLElement>("[aria-current]");
    if (nav && link) nav.scrollLeft = link.offsetLeft - nav.clientWidth / 2 + link.clientWidth / 2;
  }, [path]);
  const body = trouble?.status === 401 ? <Login done={look} />
    : trouble && !me ? <main id="main" tabIndex={-1}><h1>Afterimage</h1><Problem trouble={trouble} again={look} /></main>
      : !me ? <main id="main" tabIndex={-1}><h1 class="away">Afterimage</h1><Busy what="Opening the archive" /></main>
        : <Page path={path} me={me} />;
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); document.getElementById("main")?.focus(); }}>Skip to content</a>
      <header class="top">
        <a class="brand" href="/"><img src="/icon.svg" alt="" width="22" height="22" />Afterimage</a>
        <nav aria-label="Pages"><ul>{PAGES.map(([to, name]) => <li key={to}><a href={to} aria-current={path === to ? "page" : undefined}>{name}</a></li>)}</ul></nav>
        <div class="aside">{me && <Fresh me={me} stale={trouble !== null} />}<Theme />{me?.user && <Who me={me} />}</div>
      </header>
      {body}
      <footer>{me ? <>Afterimage {me.version} · the archive of {me.database} is only read{me.unlimited ? "" : " · you see a part of it"}</> : "Afterimage"}</footer>
      <div id="live" class="away" aria-live="polite" />
    </>
  );
}

function Page({ path, me }: { path: string; me: Me }) {
  switch (path) {
    case "/transaction": return <TransactionPage me={me} />;
    case "/row": return <RowPage />;
    case "/table": return <TablePage me={me} />;
    case "/differences": return <DifferencesPage me={me} />;
    case "/sql": return <SqlPage me={me} />;
    case "/health": return <HealthPage />;
    default: return <TimelinePage me={me} />;
  }
}

function Fresh({ me, stale }: { me: Me; stale: boolean }) {
  const late = me.now - me.watermark_time;
  return <span class={`fresh${stale ? " stale" : ""}`} title={`The watermark is ${me.watermark}, of ${time(me.watermark_time)}`}>{stale ? "not connected" : <><span class="wide">archived up to </span>{ago(late)}</>}</span>;
}

function Who({ me }: { me: Me }) {
  const leave = () => post("logout", {}).then(() => location.reload());
  return <span class="user">{me.user} <button type="button" class="button small" onClick={leave}>Log out</button></span>;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "");
  const dark = theme === "dark" || (theme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
  const turn = () => {
    const next = dark ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("theme", next); } catch { /* It holds for this page then. */ }
    setTheme(next);
  };
  return <button type="button" class="button icon" onClick={turn} aria-label={dark ? "Light colours" : "Dark colours"} title={dark ? "Light" : "Dark"}>{dark ? "☀" : "☾"}</button>;
}

function Login({ done }: { done: () => void }) {
  const [token, setToken] = useState("");
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [busy, setBusy] = useState(false);
  const enter = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try { await post("login", { token }); setTrouble(null); done(); } catch (error) { setTrouble(error instanceof Trouble ? error : new Trouble(0, String(error), null, null)); }
    setBusy(false);
  };
  return (
    <main id="main" tabIndex={-1} class="narrow">
      <h1>Log in</h1>
      <form class="card" onSubmit={enter}>
        <label class="field"><span>Your token</span><input type="password" autocomplete="current-password" required value={token} onInput={(event) => setToken(event.currentTarget.value)} /></label>
        <p class="quiet">It is in the file that <span class="code">token_file</span> of your <span class="code">[[serve.user]]</span> names.</p>
        <button class="button primary" disabled={busy || !token.trim()}>Log in</button>
        {trouble && <Problem trouble={trouble} />}
      </form>
    </main>
  );
}

followLinks();
const root = document.getElementById("console");
if (root) render(<Console />, (root.replaceChildren(), root));
