// From the spike to the copied command, by mouse in four clicks and by keys alone. Prints what was copied.

import assert from "node:assert/strict";
import { copied, open, settled, withBrowser } from "./page.mjs";

const [base] = process.argv.slice(2);

const byMouse = (browser) => withPage(browser, async (page) => {
  let clicks = 0;
  const click = async (target) => { clicks += 1; await target.click(); };
  await page.goto(base);
  await page.waitForSelector(".plot rect.delete");
  await settled(page);
  const spike = await highest(page);
  clicks += 1;
  await page.mouse.click(spike.x, spike.y);
  await page.waitForURL(/since=/);
  await settled(page);
  await click(page.locator("#transactions ol a").first());
  await page.waitForURL(/\/transaction\?/);
  await click(page.getByRole("button", { name: "Plan", exact: true }));
  await click(page.locator(".command.main").getByRole("button", { name: "Copy command" }));
  await page.getByRole("button", { name: "Copied" }).waitFor();
  assert.ok(clicks <= 4, `${clicks} clicks`);
  return { clicks, command: await copied(page), address: page.url() };
});

/** Where the longest bar below the line is. */
async function highest(page) {
  const boxes = await page.locator(".plot rect.delete").evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().toJSON()));
  const box = boxes.sort((a, b) => b.height - a.height)[0];
  return { x: box.x + box.width / 2, y: box.y + box.height / 2 };
}

const byKeys = (browser) => withPage(browser, async (page) => {
  await page.goto(base);
  await page.waitForSelector(".plot rect.delete");
  await settled(page);
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), "Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await tabTo(page, (text, tag) => tag === "plot");
  await page.keyboard.press("d");
  await page.waitForFunction(() => /deleted/.test(document.getElementById("live").textContent));
  const before = new URL(page.url()).search;
  await page.keyboard.press("+");
  await page.waitForFunction((search) => location.search !== search, before);
  await settled(page);
  await page.keyboard.press("Shift+ArrowRight");
  await page.keyboard.press("Shift+ArrowLeft");
  await page.keyboard.press("0");
  await settled(page);
  await page.keyboard.press("d");
  await page.keyboard.press("Enter");
  await page.waitForURL(/since=/);
  await settled(page);
  await tabTo(page, (text, tag, href) => href.includes("/transaction?txn="));
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/transaction\?/);
  await settled(page);
  await tabTo(page, (text) => text === "Plan");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".command.main");
  await tabTo(page, (text) => text === "Copy command");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Copied" }).waitFor();
  return { command: await copied(page) };
});

const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim());

/** Tabs until something is focused; whatever is on the way is seen to be. */
async function tabTo(page, is) {
  for (let step = 0; step < 60; step += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const here = document.activeElement, style = getComputedStyle(here), box = here.getBoundingClientRect();
      return {
        text: here.textContent.trim(), tag: here.classList.contains("plot") ? "plot" : here.tagName, href: here.getAttribute("href") ?? "",
        outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, size: box.width * box.height, body: here === document.body,
      };
    });
    assert.ok(at.body || at.outlined, `the focus is seen on ${at.tag} ${at.text.slice(0, 40)}`);
    assert.ok(at.body || at.size > 0, `${at.tag} ${at.text.slice(0, 40)} has a place`);
    if (is(at.text, at.tag, at.href)) return;
  }
  assert.fail("sixty times Tab do not lead there");
}

async function withPage(browser, work) {
  const { page, close } = await open(browser, base);
  page.setDefaultTimeout(60_000);
  const told = await work(page);
  await close();
  return told;
}

console.log(JSON.stringify(await withBrowser(async (browser) => ({ mouse: await byMouse(browser), keys: await byKeys(browser) }))));
