// Every page in both colours, on a desk and on a phone: axe finds nothing, nothing sticks out, text stays text.

import assert from "node:assert/strict";
import { DESKTOP, inspect, open, PHONE, picture, settled, withBrowser } from "./page.mjs";

const [base, directory, given] = process.argv.slice(2);
const { transaction, table, key, text, wrong } = JSON.parse(given);
const query = (values) => new URLSearchParams(values).toString();

const PAGES = {
  timeline: "/",
  transaction: `/transaction?${query({ txn: transaction })}`,
  plan: `/transaction?${query({ txn: transaction })}`,
  row: `/row?${query({ name: table, key })}`,
  table: `/table?${query({ name: table })}`,
  differences: `/differences?${query({ name: table, from: "mark:before" })}`,
  sql: `/sql?${query({ q: "SELECT date_trunc('second', ts) AS second, count(*) AS transactions FROM afterimage.transactions GROUP BY 1 ORDER BY 1" })}`,
  health: "/health",
  "nothing-chosen": "/table",
  wrong: `/transaction?${query({ txn: wrong })}`,
};

async function look(browser, device, viewport, colorScheme) {
  for (const [name, path] of Object.entries(PAGES)) {
    const { page, close } = await open(browser, base, { viewport, colorScheme, hasTouch: device === "phone", refused: name === "wrong" });
    await page.goto(base + path);
    await settled(page);
    if (name === "timeline") {
      await page.waitForSelector(".plot rect.delete");
      for (const kind of ["mark", "deployment"]) await page.waitForSelector(`.happening.${kind}`, { state: "attached" });
    }
    if (name === "plan") {
      await page.getByRole("button", { name: "Plan", exact: true }).click();
      await page.waitForSelector(".command.main", { timeout: 60_000 });
    }
    const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(dark === "rgb(16, 19, 26)", colorScheme === "dark", `${name} is ${colorScheme}: ${dark}`);
    await picture(page, directory, `${name}-${device}-${colorScheme}`);
    await inspect(page, `${name} on a ${device}, ${colorScheme}`);
    await close();
  }
}

/** A row full of markup is shown as it is, wherever it is shown. */
async function escapes(browser) {
  const places = [
    PAGES.row, `${PAGES.table}&${query({ where: "id = 'scripted'" })}`, PAGES.differences,
    `/sql?${query({ q: `SELECT note AS "<b>bold</b>" FROM ${table} WHERE id = 'scripted'` })}`,
  ];
  for (const path of places) {
    const { page, close } = await open(browser, base);
    await page.goto(base + path);
    await settled(page);
    await page.waitForFunction((text) => document.querySelector("main").textContent.includes(text), text);
    const made = await page.evaluate(() => document.querySelectorAll("main script, main img, main b, main iframe, main [onerror], main [style]").length);
    assert.equal(made, 0, path);
    await close();
  }
}

/** The address is all that somebody else needs to see the same. */
async function shares(browser) {
  const { page, close } = await open(browser, base);
  await page.goto(base);
  await page.waitForSelector(".plot rect.delete");
  await settled(page);
  await page.locator(".filters select").first().selectOption(table);
  await page.waitForURL(/table=/);
  await page.getByRole("button", { name: "Zoom in" }).click();
  await page.waitForURL(/from=/);
  await settled(page);
  const seen = await page.locator(".legend").textContent();
  const { page: other, close: closeOther } = await open(browser, base);
  await other.goto(page.url());
  await other.waitForSelector(".legend");
  await settled(other);
  assert.equal(await other.locator(".legend").textContent(), seen);
  await page.goBack();
  await page.waitForFunction(() => !location.search.includes("from="));
  await close();
  await closeOther();
}

/** What is dragged over is what is shown. */
async function drags(browser) {
  const { page, close } = await open(browser, base);
  await page.goto(base);
  await page.waitForSelector(".plot rect.delete");
  await settled(page);
  const box = await page.locator(".plot svg").boundingBox();
  const whole = await page.locator(".plot").getAttribute("aria-label");
  await page.mouse.move(box.x + box.width * 0.3, box.y + 100);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, box.y + 100, { steps: 5 });
  await page.mouse.up();
  await page.waitForURL(/from=\d+&to=\d+/);
  await page.waitForFunction((before) => document.querySelector(".plot").getAttribute("aria-label") !== before, whole);
  const place = new URL(page.url()).searchParams;
  assert.ok(Number(place.get("to")) - Number(place.get("from")) >= 1000);
  await close();
}

await withBrowser(async (browser) => {
  for (const [device, viewport] of [["desktop", DESKTOP], ["phone", PHONE]]) {
    for (const scheme of ["light", "dark"]) await look(browser, device, viewport, scheme);
  }
  await escapes(browser);
  await shares(browser);
  await drags(browser);
});
console.log("every page");
