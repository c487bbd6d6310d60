//! What a history is made from: a seed, how long it is, and which faults there are.

use std::fmt;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// A history that can be played, as often as one likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// What the source's users do.
    pub(super) steps: usize,
    pub(super) faults: Faults,
}

/// Which faults there are. Leaving one out changes nothing of what the users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faults {
    /// The store fails, throttles, and loses answers.
    pub(super) store: bool,
    /// Connections break.
    pub(super) cuts: bool,
    /// The server restarts, and slots go back.
    pub(super) restarts: bool,
    /// The archiver is killed.
    pub(super) crashes: bool,
    /// Another archiver takes over from one that does not know it yet.
    pub(super) rivals: bool,
    /// The slot is dropped, loses log, or is moved on: there will be a gap.
    pub(super) losses: bool,
    /// Files are merged and base images written meanwhile.
    pub(super) maintenance: bool,
}

impl Faults {
    const NONE: Faults = Faults {
        store: false,
        cuts: false,
        restarts: false,
        crashes: false,
        rivals: false,
        losses: false,
        maintenance: false,
    };

    /// Each by its name.
    fn named(&mut self) -> [(&'static str, &mut bool); 7] {
        [
            ("store", &mut self.store),
            ("cuts", &mut self.cuts),
            ("restarts", &mut self.restarts),
            ("crashes", &mut self.crashes),
            ("rivals", &mut self.rivals),
            ("losses", &mut self.losses),
            ("maintenance", &mut self.maintenance),
        ]
    }

    /// The same without one of them, in all ways.
    pub(super) fn without_one(self) -> Vec<Faults> {
        let fewer = (0..7).map(|at| {
            let mut fewer = self;
            *fewer.named()[at].1 = false;
            fewer
        });
        fewer.filter(|fewer| *fewer != self).collect()
    }
}

/// The sizes and speeds of one history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Knobs {
    /// The server's version.
    pub(super) major: u32,
    pub(super) tables: u32,
    /// Definitions are captured by event triggers; else there are no changes of definitions.
    pub(super) ddl: bool,
    /// Bytes that decoding keeps before it streams.
    pub(super) decoding_bytes: usize,
    pub(super) stray_aborts: bool,
    /// Some transactions are prepared before they commit.
    pub(super) two_phase: bool,
    /// Records that a walsender reads before it looks at anything else.
    pub(super) records_at_once: usize,
    pub(super) network_ms: u64,
    pub(super) pipe_bytes: usize,
    /// Of a thousand requests to the store.
    pub(super) store_faults: u64,
    pub(super) store_ms: u64,
    /// Bytes that the archiver may take.
    pub(super) memory: usize,
    pub(super) flush_ms: u64,
    /// How many steps of a process there are on average from one kill to the next.
    pub(super) life: u64,
    /// How many percent of statements are part of a long transaction.
    pub(super) long: u32,
    /// Lists of the store may lack what was written a moment ago.
    pub(super) stale_lists: bool,
    /// Tables are made, dropped and renamed, where definitions are captured.
    pub(super) definitions: bool,
}

impl Plan {
    pub(super) fn of(seed: u64) -> Plan {
        let mut dice = StdRng::seed_from_u64(seed ^ 0x91a4);
        let fault = |dice: &mut StdRng| dice.random_ratio(3, 5);
        let faults = Faults {
            store: fault(&mut dice),
            cuts: fault(&mut dice),
            restarts: fault(&mut dice),
            crashes: fault(&mut dice),
            rivals: dice.random_ratio(1, 4),
            losses: dice.random_ratio(1, 5),
            maintenance: dice.random_ratio(1, 3),
        };
        Plan { seed, steps: dice.random_range(15..60), faults }
    }

    /// Reads what [`Plan`]'s `Display` writes, or a seed alone.
    pub(super) fn parse(text: &str) -> Option<Plan> {
        let mut parts = text.split(':');
        let mut plan = Plan::of(parts.next()?.parse().ok()?);
        if let Some(steps) = parts.next() {
            plan.steps = steps.parse().ok()?;
        }
        if let Some(list) = parts.next() {
            plan.faults = Faults::NONE;
            for name in list.split(',').filter(|name| !name.is_empty()) {
                *plan.faults.named().into_iter().find(|(known, _)| *known == name)?.1 = true;
            }
        }
        Some(plan)
    }

    pub(super) fn knobs(&self) -> Knobs {
        let mut dice = StdRng::seed_from_u64(self.seed ^ 0x4b0b);
        Knobs {
            major: dice.random_range(14..=18),
            tables: dice.random_range(1..=4),
            ddl: dice.random_ratio(2, 3),
            decoding_bytes: [200, 1000, 4000, 1 << 20][dice.random_range(0..4)],
            stray_aborts: dice.random_ratio(1, 4),
            records_at_once: dice.random_range(1..40),
            network_ms: [0, 5, 200][dice.random_range(0..3)],
            pipe_bytes: [100, 2000, 65536][dice.random_range(0..3)],
            store_faults: [5, 20, 80][dice.random_range(0..3)],
            store_ms: [0, 10, 80][dice.random_range(0..3)],
            memory: [4 << 10, 16 << 10, 1 << 20][dice.random_range(0..3)],
            flush_ms: [20, 200, 1000][dice.random_range(0..3)],
            life: [60, 300, 1500][dice.random_range(0..3)],
            long: [10, 50, 90][dice.random_range(0..3)],
            two_phase: dice.random_ratio(1, 3),
            // No dice: histories of even seeds are what they were before there was this.
            definitions: self.seed % 2 == 1,
            stale_lists: self.seed % 4 == 3,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut faults = self.faults;
        let faults: Vec<&str> = faults.named().iter().filter(|(_, on)| **on).map(|(name, _)| *name).collect();
        write!(f, "{}:{}:{}", self.seed, self.steps, faults.join(","))
    }
}
