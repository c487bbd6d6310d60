// Logging in with a token, being forgotten, and seeing no more than one may.

import assert from "node:assert/strict";
import { inspect, open, picture, settled, withBrowser } from "./page.mjs";

const [base, directory, token] = process.argv.slice(2);

await withBrowser(async (browser) => {
  const { page, close } = await open(browser, base, { refused: true });
  await page.goto(`${base}/table?name=public.orders`);
  await page.getByLabel("Your token").fill("not the token that it is");
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("alert").waitFor();
  await inspect(page, "logging in");
  await picture(page, directory, "login");
  await page.getByLabel("Your token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("button", { name: "Log out" }).waitFor();
  await settled(page);
  assert.equal(new URL(page.url()).pathname, "/table", "one is where one wanted to be");
  const kept = await page.evaluate(() => document.cookie);
  assert.equal(kept, "", "scripts cannot read the token");
  await page.goto(base);
  await settled(page);
  await page.waitForSelector(".plot");
  await inspect(page, "a timeline with limits");
  await picture(page, directory, "timeline-limited");
  await page.getByRole("button", { name: "Log out" }).click();
  await page.getByLabel("Your token").waitFor();
  await close();
});
console.log("logged in");
