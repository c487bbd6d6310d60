// What is drawn beside changes: what each kind is called, its sign in a text and its shape in the chart.

import type { Happening } from "../api";

export const KINDS: Record<Happening["kind"], { name: string; sign: string; shape: string }> = {
  mark: { name: "Mark", sign: "▼", shape: "M-5-6H5L0 3Z" },
  deployment: { name: "Deployment", sign: "⚑", shape: "M-5-8H7L4-4L7 0H-3V6H-5Z" },
  alert: { name: "Alert", sign: "▲", shape: "M0-8L7 5H-7Z" },
  ddl: { name: "Definition", sign: "■", shape: "M-5-5H5V5H-5Z" },
  restore: { name: "Restore", sign: "◆", shape: "M0-7L6 0L0 7L-6 0Z" },
  gap: { name: "Gap", sign: "×", shape: "M-5-5L5 5M5-5L-5 5" },
};
