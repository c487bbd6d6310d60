// What the scripts share: a browser, and what no page of the console may do.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

export const DESKTOP = { width: 1366, height: 900 };
export const PHONE = { width: 360, height: 740 };

/** Runs a script with a browser, and ends it however the script ends. */
export async function withBrowser(work) {
  // Without a sandbox only where Chromium cannot have one: as root.
  const args = process.getuid() === 0 ? ["--no-sandbox"] : [];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
  try {
    return await work(browser);
  } finally {
    await browser.close();
  }
}

/** A page that fails the script on an error, a dialog, a breach of the policy, or a request to somebody else. */
export async function open(browser, base, options = {}) {
  const context = await browser.newContext({ viewport: DESKTOP, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: base });
  const page = await context.newPage();
  const wrong = [];
  page.on("pageerror", (error) => wrong.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => { wrong.push(`dialog: ${dialog.message()}`); void dialog.dismiss(); });
  page.on("console", (message) => {
    const expected = options.refused && message.text().includes("Failed to load resource");
    if (message.type() === "error" && !expected) wrong.push(`console: ${message.text()}`);
  });
  page.on("request", (request) => { if (new URL(request.url()).origin !== base) wrong.push(`request: ${request.url()}`); });
  return {
    page,
    async close() {
      assert.deepEqual(wrong, []);
      await context.close();
    },
  };
}

/** Waits until a page has all that it shows. */
export async function settled(page) {
  await page.waitForSelector("main h1");
  await page.waitForFunction(() => document.querySelector(".busy") === null && document.querySelector("[aria-busy=true]") === null);
}

/** Fails where axe finds anything, or the page is wider than its window. */
export async function inspect(page, what) {
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations", "passes"] }));
  const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html.slice(0, 200)).join("\n  ")}`);
  assert.deepEqual(told, [], what);
  assert.ok(passes.length > 10, `${what}: axe looked at something`);
  const wider = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(wider, 0, `${what} is wider than its window`);
}

export async function picture(page, directory, name) {
  mkdirSync(directory, { recursive: true });
  await page.screenshot({ path: `${directory}/${name}.png`, fullPage: true });
}

export const copied = (page) => page.evaluate(() => navigator.clipboard.readText());
